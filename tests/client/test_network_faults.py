"""What a caller sees when the network or a server fails: an answer or one exception, in time.

A proxy injects the faults between the client and real servers. Bounds on time are wide, since
machines that run tests are busy; `python -m tritium_benchmarks.sdk.faults` measures them.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.protobuf import text_format
from tests.support.demo_repository import STAGES, expected_label, write_repository
from tests.support.triton import TritonServer, triton_server
from tritonclient.grpc import model_config_pb2 as pb

from tritium_benchmarks.sdk.proxy import Fault, Proxy
from tritium_client import (
    AppLacksCapability,
    AppNotFound,
    AsyncClient,
    Client,
    DeadlineExceeded,
    HedgePolicy,
    InvalidInput,
    RetryPolicy,
    ServerUnavailable,
    TritiumClientError,
)

pytestmark = pytest.mark.e2e

TIMEOUT_S = 1.0
LATE_S = 1.0
NEVER_AGAIN = RetryPolicy(attempts=1)


@pytest.fixture
def proxy(server: TritonServer) -> Iterator[Proxy]:
    with Proxy(server.url) as between:
        yield between


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    repository = write_repository(tmp_path_factory.mktemp("second") / "repo", texts_only=True)
    with triton_server(repository) as running:
        yield running


def ask(client: Client, number: int, timeout_s: float = TIMEOUT_S) -> None:
    """One call, whose answer must be its own."""
    text = "x" * (number + 1)
    answer = client.classify(text=text, timeout_s=timeout_s)
    assert answer.label == expected_label(1, text=text.encode())


def in_time(error: TritiumClientError, timeout_s: float = TIMEOUT_S) -> bool:
    assert error.elapsed_s is not None
    assert error.attempts >= 1
    assert error.request_id
    return error.elapsed_s < timeout_s + LATE_S


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("refuse", ServerUnavailable),
        ("reset", ServerUnavailable),
        ("black hole", DeadlineExceeded),
    ],
)
def test_with_one_server_a_fault_is_one_exception_in_time(
    proxy: Proxy, fault: Fault, expected: type[TritiumClientError]
) -> None:
    with Client(proxy.url, app="demo", retries=RetryPolicy(first_pause_s=0.01)) as client:
        ask(client, 0)
        proxy.inject(fault)
        with pytest.raises(expected) as caught:
            ask(client, 1)
        assert in_time(caught.value)
        assert caught.value.endpoint == proxy.url
        assert caught.value.attempts == (1 if fault == "black hole" else 3)
        proxy.inject("none")
        time.sleep(0.3)  # gRPC's first pause before it connects again
        ask(client, 2, timeout_s=10)


def test_a_slow_answer_counts_when_the_deadline_allows_it(proxy: Proxy) -> None:
    with Client(proxy.url, app="demo") as client:
        ask(client, 0)
        proxy.inject("slow")
        ask(client, 1, timeout_s=10)
        with pytest.raises(DeadlineExceeded) as caught:
            ask(client, 2, timeout_s=0.1)
        assert in_time(caught.value, 0.1)
        ask(client, 3, timeout_s=10)  # the late answer to the other request is not its


@pytest.mark.parametrize("fault", ["refuse", "reset", "slow"])
def test_with_two_servers_a_fault_of_one_is_no_fault(
    proxy: Proxy, second: TritonServer, fault: Fault
) -> None:
    urls = [proxy.url, second.url]
    with Client(urls, app="demo", retries=RetryPolicy(first_pause_s=0.01)) as client:
        for number in range(4):
            ask(client, number)
        proxy.inject(fault)
        for number in range(20):
            ask(client, number, timeout_s=10)


def test_a_black_hole_beside_a_living_server_costs_hedges_not_answers(
    proxy: Proxy, second: TritonServer
) -> None:
    urls = [proxy.url, second.url]
    with Client(urls, app="demo", hedging=HedgePolicy(after=10)) as client:
        for number in range(20):
            ask(client, number, timeout_s=10)
        proxy.inject("black hole")
        # Half of the calls go there at first: more than the retry budget has hedges for.
        for number in range(60):
            ask(client, number, timeout_s=5)


def test_a_server_that_lets_deadlines_pass_is_left_out(proxy: Proxy, second: TritonServer) -> None:
    with Client([proxy.url, second.url], app="demo") as client:
        for number in range(4):
            ask(client, number)
        proxy.inject("black hole")
        failed = 0
        for number in range(12):
            try:
                ask(client, number, timeout_s=0.3)
            except DeadlineExceeded:
                failed += 1
        assert 3 <= failed <= 5, "three in a row, and perhaps a trial"


def test_a_peer_that_vanishes_during_a_long_call_is_noticed_within_ten_seconds(
    proxy: Proxy,
) -> None:
    """Keepalive; without it the caller would wait for all of the deadline."""
    with Client(proxy.url, app="demo", retries=NEVER_AGAIN) as client:
        ask(client, 0)
        threading.Timer(0.3, proxy.inject, ("black hole",)).start()
        with pytest.raises(ServerUnavailable) as caught:
            client.classify(text="sleep2", timeout_s=60)
        assert caught.value.elapsed_s is not None
        assert caught.value.elapsed_s < 10 + LATE_S


def test_a_peer_that_takes_connections_and_nothing_else_is_given_up(second: TritonServer) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        urls = [f"127.0.0.1:{mute.getsockname()[1]}", second.url]
        with Client(urls, app="demo") as client:
            ask(client, 0, timeout_s=20)


def test_a_draining_server_beside_another_is_no_fault(second: TritonServer, proxy: Proxy) -> None:
    with Client([second.url, proxy.url], app="demo", retries=RetryPolicy(attempts=5)) as client:
        second.unload("demo_classify_text")
        try:
            for number in range(20):
                ask(client, number, timeout_s=10)
        finally:
            second.load("demo_classify_text")


def test_a_server_that_does_not_have_the_app_yet_is_no_answer(
    second: TritonServer, tmp_path: Path
) -> None:
    """One that was just restarted answers before its models are loaded."""
    (tmp_path / "empty").mkdir()
    with (
        triton_server(tmp_path / "empty") as young,
        Client([young.url, second.url], app="demo") as client,
    ):
        for number in range(20):
            ask(client, number, timeout_s=10)
        assert client.status().ready
        for capability in (lambda: client.embed_text("a"), lambda: client.classify(image=b"")):
            with pytest.raises((AppLacksCapability, InvalidInput)):
                capability()
        with pytest.raises(AppNotFound):
            client.classify(text="a", app="nothing")
        ask(client, 1)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server with room for two waiting texts."""
    repository = write_repository(tmp_path_factory.mktemp("narrow") / "repo", texts_only=True)
    path = repository / STAGES["text"][1] / "config.pbtxt"
    config = text_format.Parse(path.read_text(), pb.ModelConfig())
    config.dynamic_batching.default_queue_policy.max_queue_size = 2
    path.write_text(text_format.MessageToString(config))
    with triton_server(repository) as running:
        yield running


def at_once(count: int, call: Callable[[], object]) -> list[TritiumClientError]:
    """Call from several threads; what failed."""
    errors: list[TritiumClientError] = []

    def one() -> None:
        try:
            call()
        except TritiumClientError as error:
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return errors


def test_a_full_queue_is_unavailable_and_worth_another_try(narrow: TritonServer) -> None:
    def slow(client: Client) -> Callable[[], object]:
        return lambda: client.classify(text="sleep0.3", timeout_s=20)

    with Client(narrow.url, app="demo", retries=NEVER_AGAIN) as client:
        errors = at_once(6, slow(client))
        assert errors
        assert {type(error) for error in errors} == {ServerUnavailable}
        assert all("queue" in str(error) for error in errors)
    patient = RetryPolicy(attempts=20, burst=100, first_pause_s=0.2)
    with Client(narrow.url, app="demo", retries=patient) as client:
        assert at_once(6, slow(client)) == []
    # Back-pressure: a client that keeps to what the queue has room for needs no retry. Not one more
    # for the text that is being read: when two come together, neither has left the queue yet.
    with Client(narrow.url, app="demo", retries=NEVER_AGAIN, max_in_flight=2) as client:
        assert at_once(6, slow(client)) == []


def test_a_call_waits_for_a_place_within_its_deadline(client: Client, server: TritonServer) -> None:
    with Client(server.url, app="demo", max_in_flight=1) as small:
        first = threading.Thread(target=small.classify, kwargs={"text": "sleep1"})
        first.start()
        time.sleep(0.3)
        with pytest.raises(DeadlineExceeded, match=r"1 requests in flight.*max_in_flight") as late:
            small.classify(text="a", timeout_s=0.2)
        assert late.value.attempts == 0
        waited = small.classify(text="a", timeout_s=10)
        assert waited.timing.attempts == 1
        assert waited.timing.answer_s < waited.timing.total_s
        first.join()
    with pytest.raises(ValueError, match="max_in_flight must be at least 1"):
        Client(server.url, max_in_flight=0)


def test_the_async_client_waits_for_a_place_too(server: TritonServer) -> None:
    async def calls() -> None:
        async with AsyncClient(server.url, app="demo", max_in_flight=2) as client:
            first = [asyncio.create_task(client.classify(text="sleep0.7")) for _ in range(2)]
            await asyncio.sleep(0.2)
            with pytest.raises(DeadlineExceeded, match="max_in_flight"):
                await client.classify(text="a", timeout_s=0.1)
            rest = [client.classify(text="x" * n, timeout_s=20) for n in range(1, 30)]
            answers = await asyncio.gather(*rest)
            expected = [expected_label(1, text=b"x" * n) for n in range(1, 30)]
            assert [answer.label for answer in answers] == expected
            await asyncio.gather(*first)

    asyncio.run(calls())


def test_async_faults_are_the_sync_client_s(proxy: Proxy, second: TritonServer) -> None:
    async def calls() -> None:
        async with AsyncClient(
            [proxy.url, second.url], app="demo", hedging=HedgePolicy(after=10)
        ) as client:
            for n in range(1, 21):
                await client.classify(text="x" * n, timeout_s=10)
            faults: tuple[Fault, ...] = ("reset", "refuse", "none", "black hole")
            for fault in faults:
                proxy.inject(fault)
                for n in range(1, 8):
                    answer = await client.classify(text="x" * n, timeout_s=5)
                    assert answer.label == expected_label(1, text=b"x" * n)

    asyncio.run(calls())
