"""The load generator: what it counts, and from when."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType

import numpy as np
import pytest

from tritium_benchmarks.callers import Caller
from tritium_benchmarks.driver import closed_loop, open_loop, pile


class Server:
    """Answers after a while; every `fails`-th request fails; it is busy from `stall` on, once."""

    def __init__(self, seconds: float, fails: int = 0, stall: tuple[float, float] = (0, 0)) -> None:
        self.seconds, self.fails, self.stall = seconds, fails, stall
        self.asked: list[int] = []
        self.at_once = self.most_at_once = 0
        self.began = time.perf_counter()

    async def __call__(self, index: int) -> str:
        self.asked.append(index)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            start, length = self.stall
            busy_until = self.began + start + length
            if self.began + start <= time.perf_counter() < busy_until:
                await asyncio.sleep(busy_until - time.perf_counter())
            await asyncio.sleep(self.seconds)
            if self.fails and index % self.fails == 0:
                raise ConnectionError("refused")
            return "label"
        finally:
            self.at_once -= 1

    async def __aenter__(self) -> Caller:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None


def test_a_closed_loop_keeps_so_many_under_way_and_no_more() -> None:
    server = Server(0.02)
    load = asyncio.run(closed_loop(server, in_flight=5, seconds=1, warm_up_s=0.2))
    assert server.most_at_once == 5
    assert server.at_once == 0, "nothing is left under way"
    assert load.seconds == pytest.approx(1, rel=0.3)
    assert load.per_second == pytest.approx(len(load.latencies_ms) / load.seconds)
    assert 20 <= np.median(load.latencies_ms) < 60
    # What was answered while warming up is not counted.
    assert len(load.latencies_ms) < len(server.asked) - 5
    assert 0 <= load.generator_cpu < 1.5


def test_failures_are_counted_by_kind_and_are_no_answers() -> None:
    load = asyncio.run(closed_loop(Server(0.005, fails=2), in_flight=2, seconds=0.5, warm_up_s=0.1))
    (kind,) = load.failures
    assert kind == "ConnectionError"
    assert load.failures[kind] == pytest.approx(len(load.latencies_ms), abs=4)


def test_a_server_that_refuses_at_once_does_not_hold_the_loop_up() -> None:
    load = asyncio.run(closed_loop(Server(0, fails=1), in_flight=4, seconds=0.3, warm_up_s=0.1))
    assert len(load.latencies_ms) == 0
    assert load.per_second == 0
    assert load.failures["ConnectionError"] > 10


def test_open_loop_latency_counts_from_when_a_request_was_due() -> None:
    """A server that stalls for half a second cannot hide it behind requests that were not sent."""
    stalled = Server(0.001, stall=(0.3, 0.5))
    load = asyncio.run(open_loop(stalled, rate=100, seconds=1.2, seed=1))
    late = load.latencies_ms[load.latencies_ms > 100]
    # About 40 of 120 requests were due in the first 400 ms of the stall.
    assert len(late) >= 20
    # Had the stalled requests been timed from when they were sent, none would have taken so long.
    assert load.latencies_ms.max() > 300


def test_an_open_loop_asks_at_the_same_times_for_the_same_seed() -> None:
    counts = []
    for seed in (1, 1, 2):
        server = Server(0.001)
        load = asyncio.run(open_loop(server, rate=60, seconds=0.5, seed=seed))
        assert len(load.latencies_ms) == len(server.asked)
        counts.append(len(server.asked))
    assert counts[0] == counts[1]
    assert all(10 < count < 60 for count in counts)


def test_a_pile_is_worked_off_once() -> None:
    server = Server(0.002)
    load = asyncio.run(pile(server, items=60, in_flight=8))
    assert sorted(server.asked) == list(range(60))
    assert server.most_at_once == 8
    assert len(load.latencies_ms) == 60
