"""A slow call is sent a second time: when, at what price, and which answer counts."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium_client import (
    AsyncClient,
    Client,
    HedgePolicy,
    InvalidInput,
    MockApp,
    MockTransport,
    RetryPolicy,
    ServerUnavailable,
    TritiumClientError,
)
from tritium_client._async.race import Race as AsyncRace
from tritium_client._hedging import WINDOW, Hedges
from tritium_client._sync._io import Cancellation
from tritium_client._sync.race import Race

SLOW_S = 0.5


class Uneven:
    """Answers at once, except for the calls (counted from 0) that are told to be slow."""

    def __init__(self, slow: set[int], failure: TritiumClientError | None = None) -> None:
        self.slow = slow
        self.failure = failure
        self.asked = 0
        self._lock = threading.Lock()

    def __call__(self, text: str | None, image: bytes | None) -> list[float]:
        del text, image
        with self._lock:
            number, self.asked = self.asked, self.asked + 1
        if number in self.slow:
            time.sleep(SLOW_S)
            if self.failure is not None:
                raise self.failure
        return [0.75, 0.25]


def client_of(app: Uneven, hedging: HedgePolicy | None, burst: int = 10, places: int = 8) -> Client:
    return Client(
        app="pets",
        transport=MockTransport({"pets": MockApp(labels=("cat", "dog"), answer=app)}),
        hedging=hedging,
        retries=RetryPolicy(burst=burst, budget=0),
        max_in_flight=places,
    )


def test_the_first_answer_wins() -> None:
    # No call more before the slow one: from the eleventh on, a hiccup is enough for a hedge.
    app = Uneven(slow={10})
    with client_of(app, HedgePolicy(after=10)) as client:
        for _ in range(10):
            client.classify(text="miaow")
        answer = client.classify(text="miaow")
        assert answer.label == "cat"
        assert answer.timing.total_s < SLOW_S
        assert answer.timing.attempts == 2
        assert app.asked == 12


def test_nothing_is_hedged_unless_asked_for_or_before_enough_was_seen() -> None:
    for hedging in (None, HedgePolicy(after=10)):
        with client_of(Uneven(slow={5}), hedging) as client:
            answers = [client.classify(text="miaow") for _ in range(9)]
        assert {answer.timing.attempts for answer in answers} == {1}


def test_hedges_come_out_of_the_retry_budget() -> None:
    app = Uneven(slow={*range(10, 30)})
    with client_of(app, HedgePolicy(after=10), burst=2) as client:
        for _ in range(10):
            client.classify(text="miaow")
        attempts = [client.classify(text="miaow").timing.attempts for _ in range(4)]
    # A hedge is slow as well here, so each call takes both; then the budget is spent.
    assert attempts == [2, 2, 1, 1]


def test_a_hedge_takes_no_place_from_others() -> None:
    app = Uneven(slow={10})
    with client_of(app, HedgePolicy(after=10), places=1) as client:
        for _ in range(10):
            client.classify(text="miaow")
        assert client.classify(text="miaow").timing.attempts == 1
        assert client.classify(text="miaow").timing.attempts == 1, "and every place is given back"


def test_a_failure_that_another_answer_cannot_mend_ends_the_call() -> None:
    app = Uneven(slow={10}, failure=InvalidInput("text_tokenizer", 0, "bad"))
    with client_of(app, HedgePolicy(after=10)) as client:
        for _ in range(10):
            client.classify(text="miaow")
        # The hedge answers first here: the failure of the first one comes too late to matter.
        assert client.classify(text="miaow").label == "cat"


def fails(error: TritiumClientError, after_s: float) -> Callable[[], str]:
    def send() -> str:
        time.sleep(after_s)
        raise error

    return send


def answers(what: str, after_s: float) -> Callable[[], str]:
    def send() -> str:
        time.sleep(after_s)
        return what

    return send


def race(*attempts: Callable[[], str], delay_s: float = 0.05) -> str:
    left = list(attempts)

    def send(_: Cancellation) -> str:
        return left.pop(0)()

    runner: Race[str] = Race()
    try:
        return runner.run(send, delay_s, lambda: True)
    finally:
        runner.close()


def arace(*attempts: Callable[[], str], delay_s: float = 0.05) -> str:
    left = list(attempts)

    async def send(_: object) -> str:
        return await asyncio.to_thread(left.pop(0))

    async def may_hedge() -> bool:
        return True

    return asyncio.run(AsyncRace[str]().run(send, delay_s, may_hedge))


@pytest.mark.parametrize("runs", [race, arace], ids=["sync", "async"])
def test_a_retryable_failure_waits_for_the_other(runs: Callable[..., str]) -> None:
    gone = ServerUnavailable("gone")
    assert runs(answers("first", 0.3), fails(gone, 0)) == "first"
    assert runs(fails(gone, 0.1), answers("second", 0.3)) == "second"
    assert runs(answers("first", 0), fails(gone, 0)) == "first"
    with pytest.raises(ServerUnavailable, match="last"):
        runs(fails(gone, 0.1), fails(ServerUnavailable("last"), 0.2))
    with pytest.raises(InvalidInput):
        runs(answers("too late", 0.5), fails(InvalidInput("client", 0, "bad"), 0))
    with pytest.raises(ServerUnavailable, match="gone"):
        runs(fails(gone, 0), answers("never sent", 0))


def test_the_loser_is_cancelled() -> None:
    cancelled = threading.Event()
    first = True

    def send(cancellation: Cancellation) -> str:
        nonlocal first
        if first:
            first = False
            cancellation.bind(cancelled.set)
            assert cancelled.wait(10)
            raise ServerUnavailable("cancelled")
        return "second"

    runner: Race[str] = Race()
    assert runner.run(send, 0.01, lambda: True) == "second"
    assert cancelled.wait(10)
    late = Cancellation()
    late.cancel()
    told = threading.Event()
    late.bind(told.set)
    assert told.is_set(), "a request that starts after it was given up ends at once"
    runner.close()


@given(st.lists(st.floats(0, 10), min_size=1, max_size=600), st.floats(0.01, 0.99))
def test_the_delay_is_a_time_that_was_seen_and_no_less_than_the_least(
    seconds: list[float], quantile: float
) -> None:
    hedges = Hedges(HedgePolicy(quantile=quantile, after=len(seconds[:WINDOW])))
    for one in seconds:
        assert hedges.delay_s("other") is None
        hedges.note("demo", one)
    delay = hedges.delay_s("demo")
    assert delay is not None
    assert delay == 0.005 or delay in seconds
    assert 0.005 <= delay <= max(0.005, *seconds)


@pytest.mark.parametrize(
    ("field", "value"), [("quantile", 0), ("quantile", 1), ("after", 0), ("after", 1000),
                         ("least_delay_s", -1)],
)  # fmt: skip
def test_policies_that_can_never_be_right_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        HedgePolicy(**{field: value})  # type: ignore[arg-type]


def test_a_hedged_call_keeps_the_caller_s_context() -> None:
    """Tracing and logging read it."""
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
    seen: list[str] = []

    def answer(text: str | None, image: bytes | None) -> list[float]:
        del text, image
        seen.append(who.get())
        return [1.0, 0.0]

    transport = MockTransport({"pets": MockApp(labels=("cat", "dog"), answer=answer)})
    with Client(app="pets", transport=transport, hedging=HedgePolicy(after=1)) as client:
        who.set("me")
        for _ in range(3):
            client.classify(text="miaow")
        list(client.classify_many([{"text": "a"}, {"text": "b"}]))
    assert set(seen) == {"me"}


def test_the_async_client_hedges_too() -> None:
    from tritium_client import AsyncMockTransport

    class Slow(AsyncMockTransport):
        count = 0

        async def send(self, method, request, call, **more):  # type: ignore[no-untyped-def]
            if method == "ModelInfer":
                Slow.count += 1
                if Slow.count == 11:
                    await asyncio.sleep(30)
            return await super().send(method, request, call, **more)

    async def ask() -> None:
        apps = {"pets": MockApp(labels=("cat", "dog"), answer=lambda *_: [1, 0])}
        hedging = HedgePolicy(after=10)
        async with AsyncClient(app="pets", transport=Slow(apps), hedging=hedging) as client:
            for _ in range(10):
                await client.classify(text="miaow")
            answer = await client.classify(text="miaow")
            assert answer.timing.attempts == 2
            assert answer.timing.total_s < 20
            assert len(asyncio.all_tasks()) == 1, "the loser is gone"

    asyncio.run(ask())
