"""TLS before Envoy and behind it: who is answered, and certificates that are renewed."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
from tests.client.test_security import Authority, authority
from tests.deploy.calls import wait_until
from tests.deploy.envoy.conftest import free_ports, loopback
from tests.support.demo_repository import expected_label, write_repository
from tests.support.envoy import Envoy, envoy
from tests.support.triton import triton_server

from tritium_client import Client, RetryPolicy, ServerUnavailable, Tls
from tritium_deploy import Server
from tritium_deploy.envoy import Certificates, Endpoint
from tritium_deploy.readiness import ReadinessServer, StatusBoard

pytestmark = pytest.mark.e2e

ONCE = RetryPolicy(attempts=1)


def test_the_sdk_is_answered_over_tls(secure: Envoy, ours: Authority) -> None:
    with Client(secure.url, app="tiny", tls=Tls(ca=ours.file("ca.pem"))) as client:
        assert client.classify(text="red apple", image=b"picture").release == 1
        assert client.status().ready
        assert client.server_status().live
        assert client.apps() == ("tiny",)


def test_plain_text_and_strangers_are_not_answered(
    secure: Envoy, ours: Authority, tmp_path: Path
) -> None:
    for tls in (None, Tls(ca=authority(tmp_path).file("ca.pem"))):
        with (
            Client(secure.url, app="tiny", tls=tls, retries=ONCE) as client,
            pytest.raises(ServerUnavailable),
        ):
            client.classify(text="red apple", timeout_s=2)
    with socket.create_connection(("127.0.0.1", secure.settings.port), timeout=5) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert plain.recv(100) == b""


def test_a_renewed_certificate_is_shown_without_a_restart(
    shared: Server, ours: Authority, tmp_path: Path
) -> None:
    files = {"server.pem": tmp_path / "tls.crt", "server.key": tmp_path / "tls.key"}
    for name, path in files.items():
        path.write_bytes(ours.file(name).read_bytes())
    settings = loopback(
        [Endpoint("127.0.0.1", shared.ports.grpc, shared.ports.ready)],
        tmp_path,
        tls=Certificates(str(files["server.pem"]), str(files["server.key"])),
    )
    with envoy(tmp_path, settings) as running:
        before = shown_certificate(running)
        ours.issue("renewed")
        for name, path in files.items():
            new = path.with_suffix(".new")
            new.write_bytes(ours.file(name.replace("server", "renewed")).read_bytes())
            new.replace(path)
        assert wait_until(lambda: shown_certificate(running) != before, 10)
        assert wait_until(lambda: bool(running.healthy()), 10)
        with Client(running.url, app="tiny", tls=Tls(ca=ours.file("ca.pem"))) as client:
            assert client.classify(text="red apple").release == 1


def shown_certificate(running: Envoy) -> str:
    return ssl.get_server_certificate(("127.0.0.1", running.settings.port))


def test_both_sides_may_ask_for_certificates(ours: Authority, tmp_path: Path) -> None:
    """Mutual TLS from the caller to Envoy and from Envoy to Triton."""
    ca, own = str(ours.file("ca.pem")), [str(ours.file(f"client.{end}")) for end in ("pem", "key")]
    arguments = [
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={ours.file('server.pem')}",
        f"--grpc-server-key={ours.file('server.key')}",
        f"--grpc-root-cert={ca}",
    ]
    tls = Tls(ca=ca, certificate=own[0], key=own[1])
    repository = write_repository(tmp_path / "repo")
    with triton_server(repository, arguments=arguments, credentials=tls.credentials()) as triton:
        port = int(triton.url.rpartition(":")[2])
        ready_port = free_ports(1)[0]
        settings = loopback(
            [Endpoint("localhost", port, ready_port)],
            tmp_path,
            tls=Certificates(str(ours.file("server.pem")), str(ours.file("server.key")), ca),
            upstream_ca=ca,
            upstream_certificate=Certificates(*own),
        )
        board = StatusBoard({"demo": 1})
        board.set_ready("demo")
        readiness = ReadinessServer("127.0.0.1", ready_port, board, lambda: True)
        try:
            with envoy(tmp_path, settings) as running:
                assert wait_until(lambda: bool(running.healthy()), 10)
                with Client(running.url, app="demo", tls=tls) as client:
                    assert client.classify(text="abc").label == expected_label(1, text=b"abc")
                with (
                    Client(running.url, app="demo", tls=Tls(ca=ca), retries=ONCE) as stranger,
                    pytest.raises(ServerUnavailable),
                ):
                    stranger.classify(text="abc", timeout_s=2)
        finally:
            readiness.close()
