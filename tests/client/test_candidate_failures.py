"""A candidate that fails: the live release answers in its place, within the same call."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.client.candidates import (
    ALIAS,
    CANDIDATE,
    AsyncTransport,
    Transport,
    key_of,
    not_loaded,
    pets,
)

from tritium_client import (
    AppLacksCapability,
    AppNotFound,
    AsyncClient,
    Client,
    ClientClosed,
    DeadlineExceeded,
    IncompatibleRelease,
    InvalidInput,
    RetryPolicy,
    ServerError,
    ServerUnavailable,
    TritiumClientError,
)
from tritium_client._sync.pool import PoolTransport
from tritium_client._sync.transport import Transport as AnyTransport

NEVER_AGAIN = RetryPolicy(attempts=1)
NEW, OLD = key_of(candidate=True), key_of(candidate=False)


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
def client(transport: Transport) -> Iterator[Client]:
    with Client(app="pets", transport=transport) as client:
        yield client


FALLS_BACK = [
    AppNotFound("no such model"),
    not_loaded(),
    ServerUnavailable("the queue is full"),
    ServerError("a bug"),
    IncompatibleRelease("the future"),
]


@pytest.mark.parametrize("retries", [RetryPolicy(), NEVER_AGAIN], ids=["retries", "none"])
@pytest.mark.parametrize("failure", FALLS_BACK, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("method", ["ModelInfer", "ModelConfig"])
def test_what_a_candidate_fails_the_live_release_answers(
    transport: Transport,
    failure: TritiumClientError,
    retries: RetryPolicy,
    method: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    transport.seen.fail(method, CANDIDATE, failure)
    with (
        caplog.at_level(logging.INFO, "tritium_client"),
        Client(app="pets", transport=transport, retries=retries) as client,
    ):
        answer = client.classify(text="a", route_key=NEW)
        assert (answer.release, answer.label) == (1, "cat")
        assert answer.timing.attempts == (2 if method == "ModelInfer" else 1)
    assert transport.seen.count(method, CANDIDATE) == 1, "it is not asked again"
    assert transport.seen.count("ModelInfer", ALIAS) == 1
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith(f"{answer.request_id} goes to the live release of pets, since candidate")
    assert str(failure) in line
    assert NEW not in line, "a key may be a person's name"


@pytest.mark.parametrize(
    "failure",
    [
        InvalidInput("text_tokenizer", 0, "bad"),
        DeadlineExceeded("too slow"),
        ClientClosed("closed"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_what_is_no_fault_of_the_candidate_s_is_raised(
    client: Client, transport: Transport, failure: TritiumClientError
) -> None:
    transport.seen.fail("ModelInfer", CANDIDATE, failure)
    with pytest.raises(type(failure)) as caught:
        client.classify(text="a", route_key=NEW)
    assert caught.value is failure
    assert transport.seen.count("ModelInfer", ALIAS) == 0


def test_after_a_candidate_was_not_there_the_rollout_is_read_again(
    client: Client, transport: Transport
) -> None:
    client.classify(text="a", route_key=NEW)
    transport.apps["pets"] = replace(pets(), candidate=None, canary_percent=0)
    assert client.classify(text="a", route_key=NEW).release == 1
    assert transport.seen.count("ModelConfig", ALIAS) == 1
    assert client.classify(text="a", route_key=NEW).release == 1
    assert transport.seen.count("ModelConfig", ALIAS) == 2
    assert transport.seen.count("ModelInfer", CANDIDATE) == 2, "the second one knew better"


def test_after_another_failure_the_rollout_still_stands(
    client: Client, transport: Transport
) -> None:
    transport.seen.fail("ModelInfer", CANDIDATE, ServerError("a bug"))
    for _ in range(3):
        assert client.classify(text="a", route_key=NEW).release == 1
    assert transport.seen.count("ModelConfig", ALIAS) == 1
    del transport.seen.hooks["ModelInfer", CANDIDATE]
    assert client.classify(text="a", route_key=NEW).release == 2


def test_a_candidate_without_this_entry_point_leaves_it_to_the_live_release() -> None:
    app = pets(canary_percent=100)
    assert app.candidate is not None
    only_text = replace(app.candidate, entry_points=(("text",),))
    with Client(app="pets", transport=Transport(replace(app, candidate=only_text))) as client:
        assert client.classify(text="a").release == 2
        assert client.classify(image=b"a").release == 1
        assert client.classify(text="a", image=b"a").release == 1
        with pytest.raises(AppLacksCapability):
            client.embed_text("a")


def test_a_candidate_of_another_major_version_is_asked_nothing(
    client: Client, transport: Transport
) -> None:
    transport.seen.wire_version = "99.0"
    assert client.classify(text="a", route_key=NEW).release == 1
    assert transport.seen.count("ModelInfer", CANDIDATE) == 0


def test_an_answer_that_is_none_counts_as_a_failure(transport: Transport) -> None:
    app = pets(canary_percent=100)
    assert app.candidate is not None
    broken = replace(app.candidate, answer=lambda *_: [1.0])
    transport.apps["pets"] = replace(app, candidate=broken)

    with Client(app="pets", transport=transport) as client:
        assert client.classify(text="a").release == 1


def test_the_live_release_has_what_is_left_of_the_deadline(
    client: Client, transport: Transport
) -> None:
    client.classify(text="a", route_key=NEW)

    def late(request: Any, call: Any) -> None:
        time.sleep(0.25)
        raise ServerUnavailable("after the deadline")

    transport.seen.hooks["ModelInfer", CANDIDATE] = late
    with pytest.raises(DeadlineExceeded) as caught:
        client.classify(text="a", route_key=NEW, timeout_s=0.2)
    assert caught.value.elapsed_s is not None
    assert caught.value.elapsed_s < 1
    assert transport.seen.count("ModelInfer", ALIAS) == 0


def test_when_the_live_release_fails_as_well_its_failure_is_the_call_s(
    client: Client, transport: Transport
) -> None:
    transport.seen.fail("ModelInfer", CANDIDATE, ServerError("the candidate's"))
    transport.seen.fail("ModelInfer", ALIAS, InvalidInput("text_tokenizer", 0, "bad"))
    with pytest.raises(InvalidInput) as caught:
        client.classify(text="a", route_key=NEW)
    assert caught.value.attempts == 3, "the candidate's labels, the candidate, the live release"


def test_the_async_client_falls_back_alike() -> None:
    async def ask() -> None:
        for failure in FALLS_BACK:
            transport = AsyncTransport()
            transport.seen.fail("ModelInfer", CANDIDATE, failure)
            async with AsyncClient(app="pets", transport=transport, retries=NEVER_AGAIN) as client:
                assert (await client.classify(text="a", route_key=NEW)).release == 1

    asyncio.run(ask())


def two_servers() -> tuple[Transport, Transport, Client]:
    first, second = Transport(), Transport()
    pool: AnyTransport = PoolTransport([first, second])
    return first, second, Client(app="pets", transport=pool)


def live_requests(*servers: Transport) -> list[int]:
    return [server.seen.count("ModelInfer", ALIAS) for server in servers]


def test_a_server_that_has_no_candidate_yet_still_answers_for_the_live_release() -> None:
    first, second, client = two_servers()
    second.seen.fail("ModelInfer", CANDIDATE, AppNotFound("not here"))
    second.seen.fail("ModelConfig", CANDIDATE, not_loaded())
    with client:
        for _ in range(20):
            assert client.classify(text="a", route_key=NEW).release == 2
        for _ in range(20):
            assert client.classify(text="a", route_key=OLD).release == 1
    assert live_requests(first, second) == [10, 10]


@pytest.mark.parametrize("failure", ["dead stub", "not loaded"])
def test_a_candidate_that_fails_everywhere_takes_no_server_away(failure: str) -> None:
    first, second, client = two_servers()
    error: TritiumClientError = not_loaded()
    if failure == "dead stub":
        error = ServerUnavailable("a process died")
        error.stage = "text_encoder"
    for server in (first, second):
        server.seen.fail("ModelInfer", CANDIDATE, error)
    with client:
        for _ in range(20):
            assert client.classify(text="a", route_key=NEW).release == 1
        before = live_requests(first, second)
        for _ in range(20):
            assert client.classify(text="a", route_key=OLD).release == 1
    after = live_requests(first, second)
    assert [more - fewer for more, fewer in zip(after, before, strict=True)] == [10, 10]


def test_a_server_that_is_gone_costs_a_key_its_release_once() -> None:
    """One that cannot be reached is left out, whatever it was asked."""
    first, second, client = two_servers()
    with client:
        for _ in range(2):
            assert client.classify(text="a", route_key=NEW).release == 2
        for model in (ALIAS, CANDIDATE):
            first.seen.fail("ModelInfer", model, ServerUnavailable("connection refused"))
        releases = [client.classify(text="a", route_key=NEW).release for _ in range(10)]
    assert releases.count(1) <= 1
    assert second.seen.count("ModelInfer", CANDIDATE) >= 9
