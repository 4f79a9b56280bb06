"""The load generator: what it counts, and from when."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import numpy as np
import pytest

from tritium_benchmarks.driver import closed_loop, open_loop, pile

STALL_S = 0.5


class Server:
    """Answers after a while; every `fails`-th request fails.

    Request `stalls_at` begins a stall of half a second: until its end nobody is answered.
    """

    def __init__(self, seconds: float, fails: int = 0, stalls_at: int = -1) -> None:
        self.seconds, self.fails, self.stalls_at = seconds, fails, stalls_at
        self.asked: list[int] = []
        self.at_once = self.most_at_once = 0
        self.busy_until = 0.0

    async def __call__(self, number: int) -> str:
        self.asked.append(number)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if number == self.stalls_at:
                self.busy_until = time.perf_counter() + STALL_S
            await asyncio.sleep(max(self.busy_until - time.perf_counter(), 0))
            await asyncio.sleep(self.seconds)
            if self.fails and number % self.fails == 0:
                raise ConnectionError("refused")
            return "label"
        finally:
            self.at_once -= 1


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
    rate, seed, first = 100, 1, 30
    stalled = Server(0.001, stalls_at=first)
    load = asyncio.run(open_loop(stalled, rate=rate, seconds=1.2, seed=seed))
    due = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, 2 * len(stalled.asked)))
    waited = due[first] + STALL_S - due[(due >= due[first]) & (due < due[first] + STALL_S - 0.1)]
    assert len(waited) > 20
    # However late this machine is, nobody waits less than from when it was due to the stall's end.
    slowest = np.sort(load.latencies_ms)[::-1][: len(waited)]
    assert np.all(slowest >= np.sort(waited * 1000)[::-1] - 1)


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


STOPPED = """
import asyncio, contextlib, signal
from tritium_benchmarks.commands import stopping

async def load():
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    await asyncio.sleep(5)
    print("it went on")

with stopping():
    try:
        asyncio.run(load())
    except KeyboardInterrupt:
        print("stopped")
"""


def test_a_stop_reaches_a_load_that_swallows_exceptions() -> None:
    """As gRPC's callbacks do: raised inside one, Ctrl-C's exception would be lost.

    In a process of its own: pytest's faulthandler has signals handled on a stack that is too small
    once AMX units were used (OpenVINO, in bf16).
    """
    command = [sys.executable, "-c", STOPPED]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "stopped\n"
