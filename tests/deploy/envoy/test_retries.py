"""Which failures Envoy sends to another server, and which it hands to the caller as they are."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.deploy.calls import wait_until
from tests.deploy.envoy.conftest import Server, free_ports, loopback
from tests.support.envoy import Envoy, envoy
from tests.support.grpc_service import served
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tritium_client import Client, RetryPolicy
from tritium_client._wire import infer_request
from tritium_deploy.control import ModelControl
from tritium_deploy.envoy import MEBIBYTE, Endpoint
from tritium_deploy.readiness import ReadinessServer, StatusBoard
from tritium_deploy.stubs import list_stubs

pytestmark = pytest.mark.e2e

ONCE = RetryPolicy(attempts=1)
"""What comes back is what Envoy gave, and not what the SDK made of it."""
MANY = 40
"""So many draws that a server that is never drawn is no matter of chance (one in 2 ** 40)."""
RETRIES = "cluster.tritium.upstream_rq_retry"
MEMBERSHIP = "cluster.tritium.membership_"
UNLOADED = "Request for unknown model: 'tiny_classify' has no available versions"
DEAD_STUB = "in ensemble 'tiny_classify', Stub process 'tiny_text_encoder_0_0' is not healthy."


@dataclass
class Scripted(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Fails as it is told to; what was asked of it is counted."""

    code: grpc.StatusCode = grpc.StatusCode.OK
    message: str = ""
    asked: int = 0

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked += 1
        if self.code is not grpc.StatusCode.OK:
            context.abort(self.code, self.message)
        return service_pb2.ModelInferResponse(id=request.id)


@dataclass
class Pair:
    """Two servers behind an Envoy."""

    proxy: Envoy
    board: StatusBoard
    services: list[Scripted] = field(default_factory=lambda: [Scripted(), Scripted()])

    def fail(self, code: grpc.StatusCode, message: str) -> None:
        """Let both fail like this, from now on."""
        for one in self.services:
            one.code, one.message, one.asked = code, message, 0

    def ask(self, request: Any = None, headers: Sequence[tuple[str, str]] = ()) -> grpc.StatusCode:
        """Send a request, and say how it ended."""
        options = [("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(self.proxy.url, options=options) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            try:
                stub.ModelInfer(
                    request or service_pb2.ModelInferRequest(), timeout=5, metadata=headers
                )
            except grpc.RpcError as error:
                code: grpc.StatusCode = error.code()
                return code
        return grpc.StatusCode.OK


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    services = [Scripted(), Scripted()]
    with ExitStack() as stack:
        board = StatusBoard({"tiny": 1})
        board.set_ready("tiny")
        endpoints = []
        for service in services:
            port = int(stack.enter_context(served(service)).rpartition(":")[2])
            (ready,) = free_ports(1)
            stack.callback(ReadinessServer("127.0.0.1", ready, board, lambda: True).close)
            endpoints.append(Endpoint("127.0.0.1", port, ready))
        proxy = stack.enter_context(envoy(folder, loopback(endpoints, folder)))
        assert wait_until(lambda: len(proxy.healthy()) == 2, 10)
        yield Pair(proxy, board, services)


@pytest.mark.parametrize(
    ("code", "message", "again"),
    [
        ("UNAVAILABLE", "Exceeds maximum queue size", True),
        ("NOT_FOUND", UNLOADED, True),
        ("INTERNAL", DEAD_STUB, True),
        ("NOT_FOUND", "Request for unknown model: 'tony' is not found", False),
        ("INTERNAL", "in ensemble 'tiny_classify', a bug", False),
        ("INVALID_ARGUMENT", "the image is empty", False),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", False),
        ("RESOURCE_EXHAUSTED", "too many", False),
        ("CANCELLED", "cancelled", False),
    ],
)
def test_what_is_sent_again_and_what_is_not(
    code: str, message: str, again: bool, pair: Pair
) -> None:
    status = grpc.StatusCode[code]
    pair.fail(status, message)
    assert pair.ask() is status
    asked = [one.asked for one in pair.services]
    if again:  # twice, first to the other one
        assert sum(asked) == 3
        assert min(asked) >= 1
    else:
        assert sum(asked) == 1
    # Answers, of whatever kind, eject nobody.
    for _ in range(10):
        pair.ask()
    assert len(pair.proxy.healthy()) == 2


def test_callers_cannot_ask_for_more(pair: Pair) -> None:
    headers = [
        ("x-envoy-max-retries", "9"),
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-retry-grpc-on", "internal,cancelled"),
    ]
    for code, times in ((grpc.StatusCode.INTERNAL, 1), (grpc.StatusCode.UNAVAILABLE, 3)):
        pair.fail(code, "a message")
        assert pair.ask(headers=headers) is code
        assert sum(one.asked for one in pair.services) == times


def test_a_request_with_a_large_picture_can_be_sent_again(pair: Pair) -> None:
    pair.fail(grpc.StatusCode.OK, "")
    bad = pair.services[0]
    bad.code, bad.message = grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size"
    request = service_pb2.ModelInferRequest(raw_input_contents=[b"x" * 3 * MEBIBYTE])
    # Which server is asked first is drawn by chance.
    for _ in range(MANY):
        assert pair.ask(request) is grpc.StatusCode.OK
        if bad.asked:
            break
    assert bad.asked >= 1


def test_when_no_server_is_ready_all_are_asked(pair: Pair) -> None:
    pair.fail(grpc.StatusCode.OK, "")
    pair.board.set("tiny", "unwell", "another app of these servers")
    assert wait_until(lambda: not pair.proxy.healthy(), 5)
    try:
        assert {pair.ask() for _ in range(MANY)} == {grpc.StatusCode.OK}
        assert min(one.asked for one in pair.services) > 0
    finally:
        pair.board.set_ready("tiny")
        assert wait_until(lambda: len(pair.proxy.healthy()) == 2, 5)


def test_a_server_that_says_ready_and_takes_no_connection_is_ejected(tmp_path: Path) -> None:
    board = StatusBoard({"tiny": 1})
    board.set_ready("tiny")
    closed, ready = free_ports(2)
    readiness = ReadinessServer("127.0.0.1", ready, board, lambda: True)
    try:
        with served(Scripted()) as url:
            ports = int(url.rpartition(":")[2]), closed
            endpoints = [Endpoint("127.0.0.1", port, ready) for port in ports]
            with envoy(tmp_path, loopback(endpoints, tmp_path)) as proxy:
                assert wait_until(lambda: proxy.counter(f"{MEMBERSHIP}healthy") == 2, 10)
                pair = Pair(proxy, board)
                assert {pair.ask() for _ in range(MANY)} == {grpc.StatusCode.OK}
                assert wait_until(lambda: proxy.healthy() == {ports[0]}, 2)
    finally:
        readiness.close()


@pytest.fixture
def once(proxy: Envoy, all_healthy: None) -> Iterator[Client]:
    """A client of three real servers that sends nothing again itself."""
    with Client(proxy.url, app="tiny", retries=ONCE) as client:
        client.classify(text="warm", timeout_s=10)
        yield client


def test_an_app_that_one_server_has_unloaded_is_asked_of_another(
    servers: list[Server], proxy: Envoy, once: Client
) -> None:
    control = ModelControl(f"127.0.0.1:{servers[0].ports.grpc}")
    before = proxy.counter(RETRIES)
    try:
        control.unload("tiny_classify_text")
        assert wait_until(lambda: not control.is_ready("tiny_classify_text"), 5)
        for number in range(MANY):
            assert once.classify(text=f"caller {number}").release == 1
        assert proxy.counter(RETRIES) > before
    finally:
        control.load("tiny_classify_text", 20)
        control.close()


def test_a_process_that_died_fails_no_call(
    servers: list[Server], proxy: Envoy, once: Client
) -> None:
    stub = next(one for one in list_stubs(servers[0].triton) if "text_encoder" in one.model)
    before = proxy.counter(RETRIES)
    os.kill(stub.pid, signal.SIGKILL)
    # What waits for a dead process fails a second after the one before it.
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda number: once.classify(text=f"caller {number}"), range(60)))
    assert {answer.release for answer in answers} == {1}
    assert proxy.counter(RETRIES) > before


def test_a_refused_input_is_refused_once(proxy: Envoy, once: Client) -> None:
    before = proxy.counter(RETRIES)
    request = infer_request("tiny_classify", {"text": b"no picture"}, request_id="bad")
    with grpc.insecure_channel(proxy.url) as channel, pytest.raises(grpc.RpcError) as refused:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=5)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert proxy.counter(RETRIES) == before
