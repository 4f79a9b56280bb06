"""A share of keys goes to a candidate: which, where the SDK knows it from, and what if it fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.client.candidates import (
    ALIAS,
    CANDIDATE,
    KEYS,
    AsyncTransport,
    Transport,
    key_of,
    not_loaded,
    pets,
    taken,
    wait_for,
)

from tritium_client import (
    AppNotFound,
    AsyncClient,
    Client,
    ClientClosed,
    DeadlineExceeded,
    HedgePolicy,
    IncompatibleRelease,
    InvalidInput,
    Item,
    MockApp,
    ServerError,
    ServerUnavailable,
    TritiumClientError,
    contract,
)

NEW, OLD = key_of(candidate=True), key_of(candidate=False)


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
def client(transport: Transport) -> Iterator[Client]:
    with Client(app="pets", transport=transport) as client:
        yield client


@pytest.fixture
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of a rollout is old at the next call."""
    monkeypatch.setattr(contract, "ROLLOUT_REFRESH_S", 0.0)


# --- keys --------------------------------------------------------------------------------------


def test_a_key_always_meets_the_same_release(client: Client, transport: Transport) -> None:
    for _ in range(2):
        answers = {key: client.classify(text="a", route_key=key) for key in KEYS}
        assert {key for key, one in answers.items() if one.release == 2} == taken(KEYS)
    assert 60 < len(taken(KEYS)) < 140
    # No extra hop: each request asked one model.
    models = [model for method, model in transport.seen.sent if method == "ModelInfer"]
    assert len(models) == 2 * len(KEYS)
    assert models.count(CANDIDATE) == 2 * len(taken(KEYS))
    assert set(models) == {ALIAS, CANDIDATE}


def test_without_a_key_each_request_s_id_decides(client: Client) -> None:
    answers = [client.classify(text="a") for _ in range(200)]
    for answer in answers:
        assert (answer.release == 2) == (answer.request_id in taken([answer.request_id]))
    assert 60 < sum(answer.release == 2 for answer in answers) < 140


def test_the_answer_is_the_candidate_s_own(client: Client) -> None:
    new, old = (client.classify(text="a", route_key=key) for key in (NEW, OLD))
    assert (new.release, new.label, old.release, old.label) == (2, "dog", 1, "cat")
    assert [one.label for one in new.ranking] == ["dog", "cat", "bird"]
    assert new.probabilities.tolist() == pytest.approx([0.7, 0.1, 0.2])
    assert (new.timing.attempts, old.timing.attempts) == (1, 1)
    assert new.timing.answer_s > 0


def test_every_verb_takes_a_key() -> None:
    new = MockApp(
        labels=("O", "B-X"),
        embed=lambda *_: [2.0],
        score=lambda *_: [2.0, 2.0],
        tag=lambda *_: ["B-X"],
        release=2,
    )
    live = MockApp(
        labels=("B-X", "O"),
        embed=lambda *_: [1.0],
        score=lambda *_: [1.0, 1.0],
        tag=lambda *_: ["O"],
        candidate=new,
        canary_percent=50,
    )
    with Client(app="pets", transport=Transport(live)) as client:
        for key in KEYS[:30]:
            release = 2 if key in taken(KEYS) else 1
            vector = client.embed_text("a", route_key=key)
            picture = client.embed_image(b"a", route_key=key)
            score = client.score(text="a", route_key=key)
            tagging = client.tag("a", route_key=key)
            assert {vector.release, picture.release, score.release, tagging.release} == {release}
            assert vector.vector.tolist() == picture.vector.tolist() == [release]
            assert (score.value, score.names) == (
                release, ("O", "B-X") if release == 2 else ("B-X", "O"),
            )  # fmt: skip
            assert [one.tag for one in tagging.tags] == ["B-X" if release == 2 else "O"]


def test_each_of_many_items_may_have_its_key(client: Client) -> None:
    items: list[Item] = [{"text": "a", "route_key": key} for key in KEYS]
    found = [one.unwrap() for one in client.classify_many(items, concurrency=4)]
    assert {key for key, one in zip(KEYS, found, strict=True) if one.release == 2} == taken(KEYS)
    without: list[Item] = [("a", None), {"text": "a"}, {"text": "a", "route_key": None}]
    for result in client.classify_many(without * 20):
        answer = result.unwrap()
        assert (answer.release == 2) == (answer.request_id in taken([answer.request_id]))
    for wrong in ("", 5, b"user", "\ud800"):
        bad: list[Item] = [{"text": "a", "route_key": wrong}, ("a", None)]
        first, second = client.classify_many(bad)
        assert isinstance(first.error, InvalidInput)
        assert (first.error.stage, first.error.attempts) == ("client", 0)
        assert second.error is None


def test_each_of_many_embeddings_may_have_its_key() -> None:
    live = MockApp(
        embed=lambda *_: [1.0],
        candidate=MockApp(embed=lambda *_: [2.0], release=2),
        canary_percent=50,
    )
    items: list[Item] = [{"text": "a", "route_key": key} for key in KEYS[:50]]
    with Client(app="pets", transport=Transport(live)) as client:
        for key, one in zip(KEYS, client.embed_many(items), strict=False):
            assert one.unwrap().release == (2 if key in taken(KEYS) else 1)


@pytest.mark.parametrize("wrong", ["", 5, b"user", "\ud800"])
def test_a_key_that_can_never_be_right_is_refused(
    client: Client, transport: Transport, wrong: Any
) -> None:
    for ask in (
        lambda: client.classify(text="a", route_key=wrong),
        lambda: client.embed_text("a", route_key=wrong),
        lambda: client.embed_image(b"a", route_key=wrong),
        lambda: client.tag("a", route_key=wrong),
        lambda: client.score(text="a", route_key=wrong),
    ):
        with pytest.raises(ValueError, match=r"route_key|surrogates"):
            ask()
    assert transport.seen.sent == []


def test_the_async_client_routes_alike() -> None:
    async def ask() -> None:
        transport = AsyncTransport()
        async with AsyncClient(app="pets", transport=transport) as client:
            calls = [client.classify(text="a", route_key=key) for key in KEYS]
            answers = await asyncio.gather(*calls)
            found = zip(KEYS, answers, strict=True)
            assert {key for key, one in found if one.release == 2} == taken(KEYS)
            assert transport.seen.count("ModelConfig", ALIAS) == 1
            many = client.classify_many({"text": "a", "route_key": key} for key in KEYS)
            releases = [one.unwrap().release async for one in many]
            assert releases == [one.release for one in answers]

    asyncio.run(ask())


# --- what is known of a rollout ----------------------------------------------------------------


def test_the_rollout_is_read_before_the_first_request_and_not_again_soon(
    client: Client, transport: Transport
) -> None:
    for key in KEYS:
        client.classify(text="a", route_key=key)
    assert transport.seen.sent[0] == ("ModelConfig", ALIAS)
    configs = [model for method, model in transport.seen.sent if method == "ModelConfig"]
    # The alias says what the live release is; the candidate is asked itself, once.
    assert configs == [ALIAS, CANDIDATE]
    client.classify(image=b"a", route_key=OLD)
    assert transport.seen.count("ModelConfig", "pets_classify_image") == 1


@pytest.mark.usefixtures("always_due")
def test_a_rollout_that_changes_is_followed(client: Client, transport: Transport) -> None:
    def releases() -> set[int]:
        return {client.classify(text="a", route_key=key).release for key in KEYS[:50]}

    assert releases() == {1, 2}
    transport.apps["pets"] = pets(canary_percent=100)
    assert releases() == {2}
    transport.apps["pets"] = pets(candidate=None, canary_percent=0)
    assert releases() == {1}
    promoted = pets().candidate
    assert promoted is not None
    transport.apps["pets"] = promoted
    assert client.classify(text="a", route_key=OLD).release == 2


@pytest.mark.usefixtures("always_due")
def test_reading_counts_as_no_attempt_and_is_never_repeated(
    client: Client, transport: Transport
) -> None:
    transport.seen.fail("ModelInfer", ALIAS, InvalidInput("text_tokenizer", 0, "bad"))
    for _ in range(2):
        with pytest.raises(InvalidInput) as caught:
            client.classify(text="a", route_key=OLD)
        assert caught.value.attempts == 1
    assert transport.seen.count("ModelConfig", ALIAS) == 2
    transport.seen.fail("ModelConfig", ALIAS, ServerUnavailable("gone"))
    with pytest.raises(InvalidInput) as caught:
        client.classify(text="a", route_key=OLD)
    assert caught.value.attempts == 1
    assert transport.seen.count("ModelConfig", ALIAS) == 3


def test_reading_is_not_hedged_and_takes_no_place(transport: Transport) -> None:
    release = transport.seen.wait("ModelInfer", ALIAS)
    with (
        Client(
            app="pets", transport=transport, max_in_flight=1, hedging=HedgePolicy(after=1)
        ) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(client.classify, text="a", route_key=OLD, timeout_s=20)
        wait_for(lambda: transport.seen.count("ModelInfer", ALIAS) == 1)
        with pytest.raises(DeadlineExceeded, match="max_in_flight"):
            client.classify(image=b"a", route_key=OLD, timeout_s=0.2)
        assert transport.seen.count("ModelConfig", "pets_classify_image") == 1
        release.set()
        assert first.result().release == 1


@pytest.mark.parametrize(
    "failure",
    [
        AppNotFound("no such app"),
        not_loaded(),
        ServerUnavailable("gone"),
        ServerError("a bug"),
        IncompatibleRelease("the future"),
        DeadlineExceeded("too slow"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_rollout_that_cannot_be_read_fails_no_call(
    client: Client, transport: Transport, failure: TritiumClientError, always_due: None
) -> None:
    hooks = transport.seen.hooks
    transport.seen.fail("ModelConfig", ALIAS, failure)
    assert client.classify(text="a", route_key=NEW).release == 1, "nothing is known yet"
    del hooks["ModelConfig", ALIAS]
    assert client.classify(text="a", route_key=NEW).release == 2, "it is read at the next call"
    transport.seen.fail("ModelConfig", ALIAS, failure)
    for _ in range(2):
        answer = client.classify(text="a", route_key=NEW)
        assert answer.release == 2, "what was known goes on to count"
        assert answer.timing.attempts == 1


def test_a_client_that_was_closed_meanwhile_says_so(client: Client, transport: Transport) -> None:
    transport.seen.fail("ModelConfig", ALIAS, ClientClosed("closed"))
    with pytest.raises(ClientClosed):
        client.classify(text="a")
    assert transport.seen.count("ModelInfer", ALIAS) == 0


def test_a_reading_that_hangs_leaves_time_for_the_request(
    client: Client, transport: Transport
) -> None:
    transport.seen.hang("ModelConfig", ALIAS)
    answer = client.classify(text="a", timeout_s=2)
    assert answer.release == 1
    assert 0.9 < answer.timing.total_s < 1.9
    with pytest.raises(DeadlineExceeded):
        client.classify(text="a", timeout_s=1e-9)


@pytest.mark.usefixtures("always_due")
def test_reading_again_takes_a_second_at_most(client: Client, transport: Transport) -> None:
    client.classify(text="a", timeout_s=60)
    client.classify(text="a", timeout_s=60)
    client.classify(text="a", timeout_s=0.5)
    limits = [
        call.timeout_s
        for call, (method, model) in zip(transport.seen.calls, transport.seen.sent, strict=True)
        if (method, model) == ("ModelConfig", ALIAS)
    ]
    assert 25 < limits[0] <= 30
    assert limits[1] == 1
    assert 0.2 < limits[2] <= 0.25


def test_the_first_callers_wait_for_the_first_reading(transport: Transport) -> None:
    release = transport.seen.wait("ModelConfig", ALIAS)
    with (
        Client(app="pets", transport=transport) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        calls = [
            pool.submit(client.classify, text="a", route_key=key, timeout_s=40) for key in KEYS[:8]
        ]
        time.sleep(0.2)
        assert transport.seen.sent == [("ModelConfig", ALIAS)]
        release.set()
        releases = [call.result().release for call in calls]
    assert releases == [2 if key in taken(KEYS) else 1 for key in KEYS[:8]]
    assert transport.seen.count("ModelConfig", ALIAS) == 1


def test_callers_who_waited_for_a_reading_that_failed_do_not_read_one_after_the_other(
    transport: Transport,
) -> None:
    transport.seen.hang("ModelConfig", ALIAS)
    with (
        Client(app="pets", transport=transport) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        calls = [pool.submit(client.classify, text="a", timeout_s=2) for _ in range(8)]
        assert {call.result().release for call in calls} == {1}
    assert transport.seen.count("ModelConfig", ALIAS) == 1


@pytest.mark.usefixtures("always_due")
def test_while_one_caller_reads_again_the_others_go_on(transport: Transport) -> None:
    with Client(app="pets", transport=transport) as client, ThreadPoolExecutor(1) as pool:
        client.classify(text="a")
        release = transport.seen.wait("ModelConfig", ALIAS)
        reading = pool.submit(client.classify, text="a", route_key=NEW, timeout_s=40)
        wait_for(lambda: transport.seen.count("ModelConfig", ALIAS) == 2)
        for _ in range(5):
            assert client.classify(text="a", route_key=NEW).timing.total_s < 1
        assert transport.seen.count("ModelConfig", ALIAS) == 2
        assert not reading.done()
        release.set()
        assert reading.result().release == 2


def test_async_first_callers_wait_and_later_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        transport = AsyncTransport()
        first = transport.held["ModelConfig", ALIAS] = asyncio.Event()
        async with AsyncClient(app="pets", transport=transport) as client:
            calls = [
                asyncio.create_task(client.classify(text="a", route_key=key)) for key in KEYS[:8]
            ]
            await asyncio.sleep(0.1)
            assert transport.seen.sent == [("ModelConfig", ALIAS)]
            first.set()
            releases = [(await call).release for call in calls]
            assert releases == [2 if key in taken(KEYS) else 1 for key in KEYS[:8]]

            monkeypatch.setattr(contract, "ROLLOUT_REFRESH_S", 0.0)
            client._router._routes[ALIAS][0].expire()
            again = transport.held["ModelConfig", ALIAS] = asyncio.Event()
            reading = asyncio.create_task(client.classify(text="a", route_key=NEW))
            await asyncio.sleep(0.05)
            for _ in range(5):
                assert (await client.classify(text="a", route_key=NEW)).release == 2
            assert transport.seen.count("ModelConfig", ALIAS) == 2
            assert not reading.done()
            again.set()
            assert (await reading).release == 2
            # A caller who gives up while reading leaves the turn to the next one.
            last = transport.held["ModelConfig", ALIAS] = asyncio.Event()
            given_up = asyncio.create_task(client.classify(text="a"))
            await asyncio.sleep(0.05)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            last.set()
            assert (await client.classify(text="a", route_key=NEW)).release == 2
            assert transport.seen.count("ModelConfig", ALIAS) == 4

    asyncio.run(ask())


@pytest.mark.parametrize("text", ["no JSON", '{"candidate": 0}', '{"candidate": 2, "salt": 5}'])
def test_a_malformed_rollout_is_none_and_said_once(
    client: Client, transport: Transport, text: str, caplog: pytest.LogCaptureFixture,
    always_due: None,
) -> None:  # fmt: skip
    transport.seen.rollout = text
    with caplog.at_level(logging.WARNING, "tritium_client"):
        assert {client.classify(text="a", route_key=key).release for key in KEYS[:20]} == {1}
    assert len(caplog.records) == 1
    assert ALIAS in caplog.text


def test_apps_that_there_are_not_leave_nothing_behind(client: Client) -> None:
    for number in range(5):
        with pytest.raises(AppNotFound):
            client.classify(text="a", app=f"nothing{number}")
    assert client._router._routes == {}
