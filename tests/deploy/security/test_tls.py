"""A server with TLS: who is answered, who is not, and that its own clients go on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.deploy.rollout.conftest import QUICK
from tests.deploy.tiny_repository import TinyApp, publish, publish_candidate
from tests.support.certificates import CLIENT, DAY, Authority, Issued
from tritonclient.grpc import InferenceServerClient, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tritium_client import Client, RetryPolicy, ServerUnavailable, Tls
from tritium_deploy import Ports, Security, Server, ServerTls, serve
from tritium_deploy.rollout import Rollout

pytestmark = pytest.mark.e2e

ONCE = RetryPolicy(attempts=1)


@dataclass(frozen=True)
class Secure:
    """A server that wants mutual TLS, and whoever it knows."""

    server: Server
    repository: Path
    authority: Authority
    client: Issued
    folder: Path

    def tls(self, **other: Path | str | None) -> Tls:
        """What a client that is known shows, with one thing or another changed."""
        known: dict[str, Path | str | None] = {
            "ca": self.authority.ca,
            "certificate": self.client.certificate,
            "key": self.client.key,
        }
        return Tls(**(known | other))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("secure")
    authority = Authority(folder)
    # Nobody calls it by its address: its own clients have to know better.
    issued = authority.issue("server", hosts=("models.example.org",))
    client = authority.issue("client", usage=CLIENT, hosts=())
    repository = folder / "repository"
    repository.mkdir()
    publish(repository, TinyApp(labelled=20))
    publish_candidate(repository, TinyApp(number=2, bias=0.6, labelled=20))
    tls = ServerTls(issued.certificate, issued.key, authority.ca)
    with serve(repository, ports=Ports.free(), security=Security(tls=tls)) as server:
        yield Secure(server, repository, authority, client, folder)


def ask(secure: Secure, tls: Tls | None) -> str:
    with Client(secure.server.grpc_url, app="tiny", tls=tls, retries=ONCE) as client:
        return client.classify(text="red apple", timeout_s=5).label


NAME = "models.example.org"


def test_a_client_that_is_known_is_answered(secure: Secure) -> None:
    assert secure.server.ready, "its own clients asked golden samples"
    assert ask(secure, secure.tls(server_name=NAME)) in ("cat", "dog", "bird")
    expires = secure.server.certificate_expires
    assert expires is not None
    with urllib.request.urlopen(secure.server.step_metrics_url, timeout=10) as answer:
        metrics = answer.read().decode()
    (found,) = re.findall(r"^tritium_certificate_expiry_timestamp_seconds (\S+)$", metrics, re.M)
    assert float(found) == expires.timestamp()


def test_plain_text_is_refused(secure: Secure) -> None:
    with pytest.raises(ServerUnavailable, match="does it want TLS"):
        ask(secure, None)
    with InferenceServerClient(secure.server.grpc_url) as client:
        for call in (client.is_server_live, client.get_model_repository_index):
            with pytest.raises(InferenceServerException) as caught:
                call(client_timeout=5)
            assert "UNAVAILABLE" in str(caught.value.status())


@pytest.mark.parametrize(
    "wrong",
    ["no certificate", "expired", "another authority's", "not ours, own authority", "other name"],
)
def test_who_is_not_known_is_refused(secure: Secure, wrong: str, tmp_path: Path) -> None:
    others = Authority(tmp_path)
    expired = secure.authority.issue("old", usage=CLIENT, hosts=(), since=-2 * DAY, until=-DAY)
    stranger = others.issue("stranger", usage=CLIENT, hosts=())
    known = secure.tls(server_name=NAME)
    tls = {
        "no certificate": secure.tls(server_name=NAME, certificate=None, key=None),
        "expired": secure.tls(server_name=NAME, certificate=expired.certificate, key=expired.key),
        "another authority's": secure.tls(
            server_name=NAME, certificate=stranger.certificate, key=stranger.key
        ),
        "not ours, own authority": secure.tls(server_name=NAME, ca=others.ca),
        "other name": secure.tls(),
    }[wrong]
    with pytest.raises(ServerUnavailable):
        ask(secure, tls)
    assert ask(secure, known)


def test_a_server_s_own_certificate_vouches_for_nobody_else(secure: Secure) -> None:
    """Nor does the one that its own clients show: it is no authority, and its key is nowhere."""
    own = secure.server.access.tls
    assert own is not None
    roots = list(Path(secure.server.log).parent.glob("client-roots.pem"))
    assert len(roots) == 1
    assert b"PRIVATE" not in roots[0].read_bytes()


@pytest.mark.parametrize(
    ("days", "said"),
    [(-1, r"not accepted \(certificate has expired"), (1, ""), (None, r"not accepted \(")],
)
def test_the_sdk_does_not_trust_every_server(tmp_path: Path, days: int | None, said: str) -> None:
    """An expired certificate, a good one, and one of an authority that nobody named."""
    authority = Authority(tmp_path)
    known = authority.ca
    if days is None:
        (tmp_path / "other").mkdir()
        known = Authority(tmp_path / "other").ca
    issued = authority.issue("server", since=-2 * DAY, until=(days or 1) * DAY)
    server = grpc.server(ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Living(), server)
    pair = (issued.key.read_bytes(), issued.certificate.read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    try:
        with Client(f"127.0.0.1:{port}", tls=Tls(ca=known), retries=ONCE) as client:
            if not said:
                assert client.server_status(timeout_s=5).live
                return
            with pytest.raises(ServerUnavailable, match=said):
                client.server_status(timeout_s=5)
    finally:
        server.stop(None).wait(5)


class Living(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A server that says that it is there."""

    def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)

    def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerMetadataResponse(version="2.51.0")


def test_a_rollout_goes_through_it(secure: Secure) -> None:
    """The command line, with options and with variables; and from Python."""
    where = ["--repository", str(secure.repository), "--endpoint", secure.server.grpc_url]
    client, ca = secure.client, secure.authority.ca
    files = {"ca": ca, "cert": client.certificate, "key": client.key}
    options = [f"--tls-{name}={path}" for name, path in files.items()]
    done = subprocess.run(
        [Path(sys.executable).parent / "tritium", "rollout", "stage", "tiny", "2", *where, *options,
         f"--tls-server-name={NAME}"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    tls = secure.tls(server_name=NAME)
    with Rollout(secure.repository, [secure.server.grpc_url], settings=QUICK, tls=tls) as rollout:
        rollout.promote("tiny", 2)
        assert rollout.status("tiny").live == 2
    assert secure.server.ready


def test_the_command_line_reaches_it(secure: Secure) -> None:
    port = secure.server.ports.grpc
    variables = {
        "TRITIUM_URL": f"127.0.0.1:{port}",
        "TRITIUM_TLS_CA": str(secure.authority.ca),
        "TRITIUM_TLS_CERT": str(secure.client.certificate),
        "TRITIUM_TLS_KEY": str(secure.client.key),
        "TRITIUM_TLS_SERVER_NAME": NAME,
    }
    program = Path(sys.executable).parent / "tritium"
    asked = [str(program), "classify", "--app", "tiny", "--text", "red apple", "--json"]
    for environment, code in ((variables, 0), ({"TRITIUM_URL": variables["TRITIUM_URL"]}, 1)):
        done = subprocess.run(
            asked, env=os.environ | environment, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr


def test_it_heals_and_drains(secure: Secure) -> None:
    """The last test: what serves it is told to go."""
    assert secure.server.close(), "drained through TLS: nothing was lost"
