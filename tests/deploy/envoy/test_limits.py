"""What one caller may take of Envoy: connections, time to send, headers, memory."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import grpc
import pytest
from tests.deploy.envoy.conftest import loopback
from tests.support.envoy import Envoy, envoy, fetch

from tritium_client import Client
from tritium_deploy import Server
from tritium_deploy.envoy import SERVICE, Endpoint

pytestmark = pytest.mark.e2e

CONNECTIONS = 3
ARRIVES_WITHIN_S = 1


def tighten(config: Any) -> None:
    """Limits that a test reaches."""
    connections, _heap = config["overload_manager"]["resource_monitors"]
    connections["typed_config"]["max_active_downstream_connections"] = CONNECTIONS
    chain = config["static_resources"]["listeners"][0]["filter_chains"][0]
    manager = chain["filters"][0]["typed_config"]
    assert manager["request_timeout"] == "30s"
    manager["request_timeout"] = f"{ARRIVES_WITHIN_S}s"


@pytest.fixture(scope="module")
def tight(shared: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    folder = tmp_path_factory.mktemp("tight")
    endpoints = [Endpoint("127.0.0.1", shared.ports.grpc, shared.ports.ready)]
    with envoy(folder, loopback(endpoints, folder), tighten) as running:
        yield running


def test_a_request_that_does_not_arrive_is_ended(tight: Envoy) -> None:
    enough = threading.Event()

    def slowly() -> Iterator[bytes]:
        yield b"x" * 1000
        enough.wait(10)

    began = time.monotonic()
    with grpc.insecure_channel(tight.url) as channel, pytest.raises(grpc.RpcError) as ended:
        channel.stream_unary(SERVICE + "ModelInfer")(slowly(), timeout=8)
    enough.set()
    assert ARRIVES_WITHIN_S * 0.9 < time.monotonic() - began < 5
    assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    "metadata", [[("x-much", "x" * 10_000)], [(f"x-{number}", "x") for number in range(100)]]
)
def test_headers_are_limited(metadata: list[tuple[str, str]], tight: Envoy) -> None:
    def ask(metadata: list[tuple[str, str]]) -> None:
        with grpc.insecure_channel(tight.url) as channel:
            channel.unary_unary(SERVICE + "ServerLive")(b"", timeout=5, metadata=metadata)

    ask([("authorization", "Bearer " + "x" * 6_000)])  # a long token
    with pytest.raises(grpc.RpcError, match="RST_STREAM"):
        ask(metadata)


def test_connections_are_limited_and_probes_are_not_locked_out(tight: Envoy) -> None:
    with ExitStack() as stack:
        address = ("127.0.0.1", tight.settings.port)
        held = [stack.enter_context(socket.create_connection(address, 5)) for _ in range(8)]
        refused = 0
        for one in held:
            one.settimeout(0.3)
            with suppress(TimeoutError):  # those that are kept are silent
                refused += one.recv(1) == b""
        # One of a test before this may still be counted.
        assert len(held) - CONNECTIONS <= refused < len(held)
        assert fetch(f"{tight.status_url}/ready")[0] == 200
    with Client(tight.url, app="tiny") as client:
        assert client.classify(text="red apple").release == 1


def test_http_1_is_not_spoken(tight: Envoy) -> None:
    with socket.create_connection(("127.0.0.1", tight.settings.port), 5) as one:
        one.sendall(
            b"POST /v2/models/tiny_classify/infer HTTP/1.1\r\nHost: localhost\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1000
        )
        assert one.recv(1000) == b""
