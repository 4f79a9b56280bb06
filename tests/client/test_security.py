"""TLS, mutual TLS, tokens and metadata; and that no secret is ever printed."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.demo_repository import expected_label, write_repository
from tests.support.grpc_service import served
from tests.support.triton import triton_server
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tritium_client import AsyncClient, Client, RetryPolicy, ServerUnavailable, Tls

SECRET = "s3cr3t-t0ken"


@dataclass(frozen=True)
class Authority:
    """A certificate authority with a server's and a client's certificate."""

    folder: Path

    def file(self, name: str) -> Path:
        return self.folder / name

    def issue(self, name: str, *, days: int = 1) -> None:
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", self.file(f"{name}.key"),
                "-subj", f"/CN={name}", "-out", self.file(f"{name}.csr"))  # fmt: skip
        extensions = self.file(f"{name}.ext")
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        openssl("x509", "-req", "-in", self.file(f"{name}.csr"), "-CA", self.file("ca.pem"),
                "-CAkey", self.file("ca.key"), "-CAcreateserial", "-days", str(days),
                "-extfile", extensions, "-out", self.file(f"{name}.pem"))  # fmt: skip


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def authority(folder: Path) -> Authority:
    made = Authority(folder)
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", made.file("ca.key"),
            "-subj", "/CN=test authority", "-days", "1", "-out", made.file("ca.pem"))  # fmt: skip
    for name in ("server", "client"):
        made.issue(name)
    return made


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def secure(ours: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server that wants mutual TLS; localhost:port."""
    arguments = [
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={ours.file('server.pem')}",
        f"--grpc-server-key={ours.file('server.key')}",
        f"--grpc-root-cert={ours.file('ca.pem')}",
    ]
    credentials = mutual(ours).credentials()
    repository = write_repository(tmp_path_factory.mktemp("secure") / "repo")
    with triton_server(repository, arguments=arguments, credentials=credentials) as server:
        yield f"localhost:{server.url.rpartition(':')[2]}"


def mutual(known: Authority) -> Tls:
    return Tls(
        ca=known.file("ca.pem"),
        certificate=known.file("client.pem"),
        key=known.file("client.key").read_bytes(),
    )


@pytest.mark.e2e
def test_mutual_tls_is_answered(secure: str, ours: Authority) -> None:
    with Client(secure, app="demo", tls=mutual(ours)) as client:
        assert client.classify(text="abc").label == expected_label(1, text=b"abc")

    async def ask() -> str:
        async with AsyncClient(secure, app="demo", tls=mutual(ours)) as client:
            return (await client.classify(text="abc")).label

    assert asyncio.run(ask()) == expected_label(1, text=b"abc")


@pytest.mark.e2e
def test_the_server_name_may_be_another_one(secure: str, ours: Authority) -> None:
    port = secure.rpartition(":")[2]
    files = {"ca": ours.file("ca.pem"), "certificate": ours.file("client.pem"),
             "key": ours.file("client.key")}  # fmt: skip
    with Client(f"127.0.0.1:{port}", app="demo", tls=Tls(**files, server_name="localhost")) as one:
        assert one.server_status().live


@pytest.mark.e2e
@pytest.mark.parametrize("wrong", ["plain text", "no certificate", "another authority", "system"])
def test_who_is_not_trusted_is_not_answered(
    secure: str, ours: Authority, tmp_path: Path, wrong: str
) -> None:
    others = authority(tmp_path)
    tls = {
        "plain text": None,
        "no certificate": Tls(ca=ours.file("ca.pem")),
        "another authority": mutual(others),
        "system": Tls(certificate=ours.file("client.pem"), key=ours.file("client.key")),
    }[wrong]
    with (
        Client(secure, app="demo", tls=tls, retries=RetryPolicy(attempts=1)) as client,
        pytest.raises(ServerUnavailable),
    ):
        client.classify(text="abc", timeout_s=5)


class Listener(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A gRPC service that remembers the metadata that came."""

    def __init__(self) -> None:
        self.heard: list[dict[str, str]] = []

    def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.heard.append(dict(context.invocation_metadata()))
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)

    def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerMetadataResponse(version="2.51.0")


@pytest.fixture
def listener() -> Iterator[tuple[Listener, str]]:
    service = Listener()
    with served(service) as url:
        yield service, url


def test_token_and_metadata_come_with_every_request(listener: tuple[Listener, str]) -> None:
    service, url = listener
    with Client(url, token=SECRET, metadata={"x-team": "search"}) as client:
        client.server_status()

    async def ask() -> None:
        async with AsyncClient(url, token=SECRET, metadata={"x-team": "search"}) as client:
            await client.server_status()

    asyncio.run(ask())
    assert len(service.heard) == 2
    for heard in service.heard:
        assert heard["authorization"] == f"Bearer {SECRET}"
        assert heard["x-team"] == "search"


def test_no_secret_is_printed(ours: Authority, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = ours.file("client.key").read_bytes()
    tls = Tls(ca=ours.file("ca.pem"), certificate=ours.file("client.pem"), key=key)
    with Client("localhost:1", app="demo", tls=tls, token=SECRET) as client:
        shown = f"{client!r} {client} {vars(client)} {tls!r}"
        with pytest.raises(ServerUnavailable) as caught:
            client.classify(text="x", timeout_s=1)
    for text in (shown, str(caught.value), repr(caught.value), caplog.text):
        assert SECRET not in text
        assert "PRIVATE KEY" not in text


@pytest.mark.parametrize("url", ["models.example.org:8001", "10.0.0.7:8001", "[2001:db8::1]:8001"])
def test_a_token_does_not_travel_in_plain_text(url: str) -> None:
    with pytest.raises(ValueError, match="plain text could be read on the way") as caught:
        Client(url, token=SECRET)
    assert SECRET not in str(caught.value)
    Client(url, token=SECRET, tls=Tls()).close()


@pytest.mark.parametrize("url", ["localhost:8001", "127.0.0.1:8001", "[::1]:8001"])
def test_a_token_may_go_to_this_machine(url: str) -> None:
    Client(url, token=SECRET).close()


@pytest.mark.parametrize("name", ["", "X-Team", "x team", "größe"])
def test_names_that_are_no_metadata_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="metadata names"):
        Client("localhost:8001", metadata={name: "x"})


def test_half_of_a_pair_and_files_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="both certificate and key"):
        Tls(certificate=b"x")
    with pytest.raises(ValueError, match=r"tls: ca .*nothing\.pem' cannot be read"):
        Client("localhost:8001", tls=Tls(ca=tmp_path / "nothing.pem"))
    with pytest.raises(ValueError, match="not both"):
        Client("localhost:8001", token=SECRET, metadata={"authorization": "x"})
