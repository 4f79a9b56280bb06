"""A candidate in the shadow of the live release: no caller notices, and what is found out of it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from tests.client.candidates import (
    ALIAS,
    CANDIDATE,
    KEYS,
    AsyncTransport,
    Transport,
    not_loaded,
    pets,
    wait_for,
)
from tests.support.grpc_service import served
from tritonclient.grpc import service_pb2_grpc

from tritium_client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    HedgePolicy,
    IncompatibleRelease,
    InvalidInput,
    MockApp,
    RetryPolicy,
    ServerError,
    ServerUnavailable,
    ShadowReport,
    TritiumClientError,
    contract,
)
from tritium_client._call import Call
from tritium_client._mock import respond
from tritium_client._sync.pool import PoolTransport
from tritium_client.contract import Rollout


def shadowed(**changes: Any) -> MockApp:
    """Every request goes to release 1, and to its candidate as well."""
    return pets(canary_percent=0, shadow_percent=100, **changes)


@pytest.fixture
def transport() -> Transport:
    return Transport(shadowed())


@pytest.fixture
def client(transport: Transport) -> Iterator[Client]:
    with Client(app="pets", transport=transport) as client:
        yield client


def ended(client: Client, requests: int) -> ShadowReport:
    wait_for(lambda: client.shadow_report().requests == requests)
    return client.shadow_report()


def test_the_same_inputs_go_to_both_and_the_live_release_answers(
    client: Client, transport: Transport
) -> None:
    asked: list[tuple[str | None, bytes | None]] = []

    def answer(text: str | None, image: bytes | None) -> list[float]:
        asked.append((text, image))
        return [0.7, 0.1, 0.2]

    app = shadowed()
    assert app.candidate is not None
    transport.apps["pets"] = replace(app, candidate=replace(app.candidate, answer=answer))
    for number in range(5):
        one = client.classify(text=f"number {number}", image=b"picture", route_key="a")
        assert (one.release, one.label, one.timing.attempts) == (1, "cat", 1)
        ended(client, number + 1)
    assert asked == [(f"number {number}", b"picture") for number in range(5)]
    report = client.shadow_report("pets")
    assert (report.app, report.verb, report.candidate, report.live) == ("pets", "classify", 2, 1)
    assert (report.requests, report.failed, report.dropped) == (5, 0, 0)
    assert report.agreement == 0, "the candidate says dog"
    # cat 0.9 and dog 0.1 beside dog 0.7, bird 0.1 and cat 0.2: (0.7 + 0.6 + 0.1) / 2
    assert report.mean_difference == pytest.approx(0.7)
    assert report.largest_difference == pytest.approx(0.7)
    for seconds in (report.live_latency_s, report.candidate_latency_s):
        assert seconds is not None
        assert 0 < seconds < 5
    assert client.shadow_report(verb="tag") == ShadowReport("pets", "tag")


def test_nothing_is_known_before_the_first_shadow(client: Client) -> None:
    assert client.shadow_report() == ShadowReport("pets")
    assert client.shadow_report("other") == ShadowReport("other")
    with pytest.raises(ValueError, match="no app name"):
        client.shadow_report("Other App")


def test_the_keys_are_those_of_the_shadow_share(transport: Transport) -> None:
    transport.apps["pets"] = pets(canary_percent=30, shadow_percent=40)
    rollout = Rollout(2, 30, 40)
    with Client(app="pets", transport=transport) as client:
        expected = 0
        for key in KEYS[:100]:
            answer = client.classify(text="a", route_key=key)
            assert answer.release == (2 if rollout.takes(key) else 1)
            expected += rollout.shadows(key) and not rollout.takes(key)
            report = ended(client, expected)
    assert 10 < expected < 60
    assert (report.failed, report.dropped) == (0, 0)


def test_no_caller_waits_for_a_candidate(client: Client, transport: Transport) -> None:
    release = transport.seen.wait("ModelInfer", CANDIDATE)
    began = time.monotonic()
    for _ in range(3):
        assert client.classify(text="a", timeout_s=30).release == 1
    assert time.monotonic() - began < 5
    assert client.shadow_report().requests == 0
    release.set()
    assert ended(client, 3).failed == 0


@pytest.mark.parametrize("method", ["ModelInfer", "ModelConfig"])
@pytest.mark.parametrize(
    "failure",
    [
        not_loaded(),
        InvalidInput("text_tokenizer", 0, "bad"),
        DeadlineExceeded("too slow"),
        IncompatibleRelease("the future"),
        ServerError("a bug"),
        ServerUnavailable("gone"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_no_caller_sees_a_candidate_fail(
    client: Client, transport: Transport, failure: TritiumClientError, method: Any
) -> None:
    transport.seen.fail(method, CANDIDATE, failure)
    for _ in range(3):
        answer = client.classify(text="a")
        assert (answer.release, answer.timing.attempts) == (1, 1)
    report = ended(client, 3)
    assert (report.failed, report.agreement, report.mean_difference) == (3, None, None)
    assert (report.largest_difference, report.candidate_latency_s) == (None, None)
    assert transport.seen.count(method, CANDIDATE) == 3, "nothing is sent again"
    assert transport.seen.count("ModelConfig", ALIAS) == 1


def test_an_answer_that_is_none_is_a_failure(client: Client, transport: Transport) -> None:
    app = shadowed()
    assert app.candidate is not None
    transport.apps["pets"] = replace(app, candidate=replace(app.candidate, answer=lambda *_: [1]))
    assert client.classify(text="a").release == 1
    assert ended(client, 1).failed == 1


def test_what_is_over_the_bound_is_dropped(client: Client, transport: Transport) -> None:
    release = transport.seen.wait("ModelInfer", CANDIDATE)
    for _ in range(12):
        client.classify(text="a", timeout_s=30)
    assert client.shadow_report().dropped == 4
    wait_for(lambda: transport.seen.count("ModelInfer", CANDIDATE) == 8)
    release.set()
    report = ended(client, 8)
    assert (report.failed, report.dropped) == (0, 4)
    # Places are given back.
    for number in range(10):
        client.classify(text="a")
        assert ended(client, 9 + number).dropped == 4


def test_shadows_take_no_place_and_are_not_hedged(transport: Transport) -> None:
    release = transport.seen.wait("ModelInfer", CANDIDATE)
    with Client(
        app="pets", transport=transport, max_in_flight=1, hedging=HedgePolicy(after=1)
    ) as client:
        for _ in range(5):
            assert client.classify(text="a", timeout_s=2).release == 1
        wait_for(lambda: transport.seen.count("ModelInfer", CANDIDATE) == 5)
        release.set()
        assert ended(client, 5).failed == 0
    assert transport.seen.count("ModelInfer", CANDIDATE) == 5


def test_a_shadow_has_its_caller_s_deadline_anew_and_an_id_of_its_own(
    client: Client, transport: Transport
) -> None:
    seen: list[tuple[str, float, int]] = []

    def look(request: Any, call: Call) -> None:
        timeout_us = request.parameters["timeout"].int64_param
        seen.append((request.id, call.timeout_s, timeout_us))

    transport.seen.hooks["ModelInfer", CANDIDATE] = look
    answer = client.classify(text="a", timeout_s=3)
    ended(client, 1)
    ((request_id, timeout_s, timeout_us),) = seen
    assert (request_id, timeout_s) == (f"{answer.request_id}-shadow", 3)
    assert 2_000_000 < timeout_us <= 3_000_000


def test_what_a_candidate_answered_or_failed_has_no_shadow(transport: Transport) -> None:
    transport.apps["pets"] = pets(canary_percent=100, shadow_percent=100)
    with Client(app="pets", transport=transport) as client:
        assert client.classify(text="a").release == 2
        transport.seen.fail("ModelInfer", CANDIDATE, ServerError("a bug"))
        assert client.classify(text="a").release == 1
        time.sleep(0.1)
        assert client.shadow_report() == ShadowReport("pets")
    assert transport.seen.count("ModelInfer", CANDIDATE) == 2


def test_a_candidate_that_went_live_is_not_compared_with_itself(
    client: Client, transport: Transport
) -> None:
    client.classify(text="a")
    ended(client, 1)
    promoted = shadowed().candidate
    assert promoted is not None
    transport.apps["pets"] = promoted  # and the client still knows the rollout
    assert client.classify(text="a").release == 2
    time.sleep(0.1)
    assert client.shadow_report().live == 1
    assert transport.seen.count("ModelInfer", CANDIDATE) == 1


@pytest.mark.parametrize("what", ["candidate", "live"])
def test_another_release_starts_a_new_report(
    client: Client, transport: Transport, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "ROLLOUT_REFRESH_S", 0.0)
    for number in range(3):
        client.classify(text="a")
        ended(client, number + 1)
    app = shadowed()
    assert app.candidate is not None
    if what == "candidate":
        app = replace(app, candidate=replace(app.candidate, release=3))
    else:
        app = replace(app, release=4)
    transport.apps["pets"] = app
    client.classify(text="a")
    report = ended(client, 1)
    assert (report.candidate, report.live) == ((3, 1) if what == "candidate" else (2, 4))


def test_every_verb_has_its_own_difference() -> None:
    new = MockApp(
        labels=("b", "a"),
        embed=lambda *_: [0.0, 2.0] if _[0] == "other" else [3.0, 0.0],
        score=lambda *_: [2.0, 1.5],
        tag=lambda *_: ["b", "a"],
        release=2,
    )
    live = MockApp(
        labels=("a", "b"),
        embed=lambda *_: [1.0, 0.0],
        score=lambda *_: [1.0, 2.0],
        tag=lambda *_: ["b", "b"],
        candidate=new,
        shadow_percent=100,
    )
    with Client(app="pets", transport=Transport(live)) as client:
        client.embed_text("a")
        client.embed_text("other")
        client.embed_image(b"a")
        wait_for(lambda: client.shadow_report(verb="embed").requests == 3)
        client.score(text="a")
        wait_for(lambda: client.shadow_report(verb="score").requests == 1)
        client.tag("two words")
        wait_for(lambda: client.shadow_report(verb="tag").requests == 1)
        embed, score, tag = (client.shadow_report(verb=verb) for verb in ("embed", "score", "tag"))
        assert client.shadow_report() == embed, "the one that was asked most"
    assert (embed.agreement, embed.failed) == (None, 0)
    assert embed.mean_difference == pytest.approx(1 / 3)
    assert embed.largest_difference == 1
    # a: 1 beside 1.5; b: 2 beside 2
    assert (score.agreement, score.mean_difference) == (None, 0.5)
    assert (tag.agreement, tag.mean_difference) == (0, 0.5)


def test_shadows_say_nothing_of_a_server() -> None:
    first, second = Transport(shadowed()), Transport(shadowed())
    for server in (first, second):
        server.seen.fail("ModelInfer", CANDIDATE, ServerUnavailable("connection refused"))
    with Client(
        app="pets", transport=PoolTransport([first, second]), retries=RetryPolicy(attempts=1)
    ) as client:
        for number in range(10):
            client.classify(text="a")
            ended(client, number + 1)
        before = [server.seen.count("ModelInfer", ALIAS) for server in (first, second)]
        client._router._tallies = type(client._router._tallies)()
        for server in (first, second):
            server.apps["pets"] = pets(candidate=None, canary_percent=0)
        client._router._routes[ALIAS][0].expire()
        for _ in range(10):
            client.classify(text="a")
        after = [server.seen.count("ModelInfer", ALIAS) for server in (first, second)]
    assert [more - fewer for more, fewer in zip(after, before, strict=True)] == [5, 5]


def test_closing_the_client_logs_the_report(
    transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.INFO, "tritium_client"),
        Client(app="pets", transport=transport) as client,
    ):
        client.classify(text="private words", route_key="a person")
        ended(client, 1)
        assert caplog.records == []
        client.close()
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("pets classify: release 2 in the shadow of 1: 1 requests, 0 failed")
    assert "private" not in line
    assert "person" not in line


# --- asyncio -----------------------------------------------------------------------------------


def test_async_shadows_run_beside_the_callers_and_end_with_the_client() -> None:
    async def ask() -> None:
        transport = AsyncTransport(shadowed())
        held = transport.held["ModelInfer", CANDIDATE] = asyncio.Event()
        client = AsyncClient(app="pets", transport=transport)
        for _ in range(12):
            assert (await client.classify(text="a")).release == 1
        await asyncio.sleep(0.05)
        assert transport.seen.count("ModelInfer", CANDIDATE) == 8
        assert client.shadow_report().dropped == 4
        held.set()
        while client.shadow_report().requests < 8:
            await asyncio.sleep(0.01)
        assert client.shadow_report().agreement == 0
        held.clear()
        await client.classify(text="a")
        await asyncio.sleep(0.05)
        assert len(asyncio.all_tasks()) == 2
        await client.close()
        assert len(asyncio.all_tasks()) == 1, "what was under way is cancelled"
        assert client.shadow_report().requests == 8, "and is nobody's failure"

    asyncio.run(ask())


def test_async_callers_see_no_failure_of_a_shadow(caplog: pytest.LogCaptureFixture) -> None:
    async def ask() -> None:
        transport = AsyncTransport(shadowed())
        transport.seen.fail("ModelInfer", CANDIDATE, ServerError("a bug"))
        async with AsyncClient(app="pets", transport=transport) as client:
            assert (await client.classify(text="a")).release == 1
            await asyncio.sleep(0.05)
            assert client.shadow_report().failed == 1

    asyncio.run(ask())
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


# --- threads -----------------------------------------------------------------------------------


class Slow(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A server whose candidate takes its time."""

    def __init__(self) -> None:
        self.apps = {"pets": shadowed()}
        self.asked = threading.Event()
        self.given_up = threading.Event()

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802 - Triton's name
        return respond(self.apps, "ModelConfig", request, Call("", 5))

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - Triton's name
        if request.model_name == CANDIDATE:
            context.add_callback(self.given_up.set)
            self.asked.set()
            self.given_up.wait(20)
            context.abort(grpc.StatusCode.CANCELLED, "")
        return respond(self.apps, "ModelInfer", request, Call("", 5))


def background_threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("tritium-background")]


def test_closing_a_client_ends_its_shadows_at_once() -> None:
    server = Slow()
    with served(server) as url:
        client = Client(url, app="pets")
        assert client.classify(text="a", timeout_s=20).release == 1
        assert server.asked.wait(10)
        began = time.monotonic()
        client.close()
        assert server.given_up.wait(10)
        assert time.monotonic() - began < 5
        wait_for(lambda: background_threads() == [])
        assert client.shadow_report().requests == 0


def test_a_client_without_shadows_starts_no_thread() -> None:
    with Client(app="pets", transport=Transport()) as client:
        for key in KEYS:
            client.classify(text="a", route_key=key)
        assert background_threads() == []
