"""Model control, logging, tracing and shared memory ask for a key, unless somebody opened them."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from tests.client.test_shared_memory import picture
from tests.deploy.calls import regions
from tests.deploy.rollout.conftest import QUICK
from tests.deploy.tiny_repository import publish, publish_candidate
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tritium_client import Client
from tritium_client._admin_key import HEADER, key_files, local_key
from tritium_deploy import Ports, Security, Server, serve
from tritium_deploy.errors import AdminKeyError, KeyRefusedError
from tritium_deploy.rollout import Rollout

pytestmark = pytest.mark.e2e

CALLS = {
    "RepositoryIndex": service_pb2.RepositoryIndexRequest(),
    "RepositoryModelLoad": service_pb2.RepositoryModelLoadRequest(model_name="tiny_classify"),
    "RepositoryModelUnload": service_pb2.RepositoryModelUnloadRequest(model_name="none"),
    "TraceSetting": service_pb2.TraceSettingRequest(),
    "LogSettings": service_pb2.LogSettingsRequest(),
    "SystemSharedMemoryStatus": service_pb2.SystemSharedMemoryStatusRequest(),
    "SystemSharedMemoryRegister": service_pb2.SystemSharedMemoryRegisterRequest(
        name="region", key="/none", byte_size=8
    ),
    "SystemSharedMemoryUnregister": service_pb2.SystemSharedMemoryUnregisterRequest(),
    "CudaSharedMemoryStatus": service_pb2.CudaSharedMemoryStatusRequest(),
}
PATHS = {
    "v2/repository/index": b"{}",
    "v2/repository/models/tiny_classify/load": b"{}",
    "v2/repository/models/tiny_classify/unload": b"{}",
    "v2/logging": b'{"log_file": "/tmp/anything"}',
    "v2/trace/setting": b"{}",
    "v2/systemsharedmemory/region/region/register": b'{"key": "/none", "byte_size": 8}',
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Started with nothing said of a key, and with HTTP."""
    repository = tmp_path_factory.mktemp("repository")
    publish(repository)
    with serve(repository, ports=Ports.free(), http=True) as one:
        yield one


def outcome(server: Server, method: str, key: str | None) -> str:
    """What a call comes to: `restricted`, or something else."""
    metadata = [] if key is None else [(HEADER, key)]
    with grpc.insecure_channel(server.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            getattr(stub, method)(CALLS[method], timeout=10, metadata=metadata)
        except grpc.RpcError as error:
            restricted = "protocol is restricted" in (error.details() or "")
            return "restricted" if restricted else str(error.code())
        return "answered"


def test_the_key_is_where_its_user_alone_finds_it(server: Server) -> None:
    path = server.admin_key_file
    assert path is not None
    assert path in key_files(server.ports.grpc)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert local_key(server.grpc_url) == server.access.admin_key
    assert local_key(f"192.0.2.1:{server.ports.grpc}") is None, "no other machine's business"
    assert server.access.admin_key is not None
    assert server.access.admin_key not in repr(server.access)


@pytest.mark.parametrize("method", CALLS)
def test_grpc_refuses_without_it(server: Server, method: str) -> None:
    assert outcome(server, method, None) == "restricted"
    assert outcome(server, method, "x" * 43) == "restricted"
    assert outcome(server, method, server.access.admin_key) != "restricted"


@pytest.mark.parametrize("path", PATHS)
def test_http_refuses_without_it(server: Server, path: str) -> None:
    def status(key: str | None) -> int:
        request = urllib.request.Request(f"{server.http_url}/{path}", PATHS[path])
        if key is not None:
            request.add_header("admin-key", key)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                code: int = answer.status
                return code
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    assert status(None) == 403
    assert status("x" * 43) == 403
    if "unload" not in path and "logging" not in path:
        assert status(server.access.admin_key) != 403


@pytest.mark.parametrize(
    "path",
    ["/v2//repository/index", "/v2/repository//index", "//v2/repository/index",
     "/v2/repository/index/", "/v2/%72epository/index", "/v2/./repository/index",
     "/v2/repository/index?a=b", "/V2/repository/index", "/v2/models/../repository/index"],
)  # fmt: skip
def test_no_other_spelling_of_a_path_gets_by(server: Server, path: str) -> None:
    """CVE-2026-24207 is an authentication bypass of Tritons before 26.03."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", server.ports.http, timeout=10)
    connection.request("POST", path, body=b"{}")
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status in (400, 403, 404, 405), body
    assert b"tiny_classify" not in body


def test_inference_asks_for_none(server: Server) -> None:
    with Client(server.grpc_url, app="tiny") as client:
        assert client.classify(text="red apple", timeout_s=10).release == 1
    with urllib.request.urlopen(f"{server.http_url}/v2/health/ready", timeout=10) as answer:
        assert answer.status == 200


def test_shared_memory_finds_the_key(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a region where the key is found; as messages, and no worse, where it is not."""
    given = {"image": picture(1)}
    with Client(server.grpc_url, app="tiny", transport="shared_memory") as client:
        want = client.classify(**given, timeout_s=10).label  # type: ignore[arg-type]
        assert registered(server), "the server has mapped a region"
    assert server.admin_key_file is not None
    path = tmp_path / "copy.key"
    path.write_text(server.admin_key_file.read_text())
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "empty"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "empty"))
    for key_file, found in ((None, False), (path, True)):
        with Client(
            server.grpc_url, app="tiny", transport="shared_memory", admin_key_file=key_file
        ) as client:
            assert client.classify(**given, timeout_s=10).label == want  # type: ignore[arg-type]
            assert bool(registered(server)) == found


def registered(server: Server) -> list[str]:
    metadata = [(HEADER, server.access.admin_key or "")]
    with grpc.insecure_channel(server.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = service_pb2.SystemSharedMemoryStatusRequest()
        return list(stub.SystemSharedMemoryStatus(request, timeout=10, metadata=metadata).regions)


def test_another_start_has_another_key_and_none_is_left(repository: Path) -> None:
    publish(repository)
    publish_candidate(repository)
    ports = Ports.free()
    with serve(repository, ports=ports) as first:
        before = first.access.admin_key
        with Rollout(repository, [first.grpc_url], settings=QUICK) as rollout:
            rollout.stage("tiny", 2)
            first.close()
            assert not any(path.exists() for path in key_files(ports.grpc))
            with serve(repository, ports=ports) as second:
                assert second.access.admin_key != before
                rollout.stage("tiny", 2)  # by the same object: it finds the new one
    assert not any(path.exists() for path in key_files(ports.grpc))


def test_a_key_that_stays(repository: Path, start: Callable[..., Server], tmp_path: Path) -> None:
    publish(repository)
    path = tmp_path / "admin.key"
    server = start(security=Security(admin_key_file=path))
    assert server.admin_key_file == path
    assert not any(one.exists() for one in key_files(server.ports.grpc))
    with (
        Rollout(repository, [server.grpc_url]) as rollout,
        pytest.raises(KeyRefusedError, match="run this as the user that serves"),
    ):
        rollout.stage("tiny", 1)
    server.close()
    assert path.exists()


def test_opened_it_asks_for_nothing(repository: Path, start: Callable[..., Server]) -> None:
    publish(repository)
    told: list[str] = []
    security = Security(open_admin=True)
    server = start(
        security=security, host="0.0.0.0", on_event=lambda event: told.append(event.text)
    )
    assert server.admin_key_file is None
    assert outcome(server, "RepositoryIndex", None) == "answered"
    assert any("model control is open to whoever reaches gRPC" in text for text in told)


def test_a_key_without_a_place_is_one_line(
    repository: Path, start: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(repository)
    file = tmp_path / "a file"
    file.touch()
    monkeypatch.setattr(
        "tritium_deploy.security.admin_key.key_files",
        lambda port: [file / "tritium" / f"{port}.key"],
    )
    before = regions()
    with pytest.raises(AdminKeyError, match=r"has no place: .*give --admin-key-file, or --open"):
        start()
    assert regions() <= before


def test_a_folder_of_somebody_else_will_not_do(
    repository: Path, start: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(repository)
    shared, private = tmp_path / "shared", tmp_path / "private"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setattr(
        "tritium_deploy.security.admin_key.key_files",
        lambda port: [shared / f"{port}.key", private / f"{port}.key"],
    )
    server = start()
    assert server.admin_key_file == private / f"{server.ports.grpc}.key"
    assert not list(shared.iterdir())


def test_the_command_line(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "tritium"
    for words, said in (
        (["--open-admin", "--admin-key-file", "x"], "either --open-admin or --admin-key-file"),
        (["--tls-cert", "x"], "--tls-cert and --tls-key go together"),
        (["--tls-client-ca", "x"], "--tls-client-ca needs --tls-cert"),
    ):
        done = subprocess.run(
            [program, "serve", *words], capture_output=True, text=True, timeout=60, check=False,
            cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 2
        assert said in " ".join(done.stderr.split()).replace("│ ", "").replace(" │", "")
    repository = tmp_path / "repository"
    repository.mkdir()
    publish(repository)
    done = subprocess.run(
        [program, "serve", "--json", "--free-ports", "--repository", repository,
         "--tls-cert", tmp_path / "none", "--tls-key", tmp_path / "none"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    event = json.loads(done.stdout.splitlines()[-1])
    assert event["kind"] == "CertificateError"
    assert "does not exist" in event["text"]
