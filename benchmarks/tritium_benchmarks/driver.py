"""Our own load generator, for what perf_analyzer cannot ask or cannot tell.

perf_analyzer asks Triton only, ends at the first failed request, and knows no open loop whose
latencies count from when a request was due. This one asks any contender through a `Caller`, from
one asyncio process, and says what it cost itself.

load = hold(server, "openmoji", labels, requests,
            lambda caller: closed_loop(caller, in_flight=16, seconds=10))
load.per_second, load.latencies_ms, load.failures
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tritium_benchmarks.callers import Caller, connected
from tritium_benchmarks.contenders import Running
from tritium_benchmarks.inputs import Request

LEAST_WARM_UP_S = 0.5
LEAST_ANSWERS = 4
PATIENCE = 4
"""Times that a closed loop is held longer, when it saw too few answers to say anything."""


@dataclass(frozen=True)
class Load:
    """One load, held for a while."""

    seconds: float
    """How long answers were counted."""
    latencies_ms: npt.NDArray[np.float64]
    """Of every answer that was counted, in the order in which they came."""
    failures: Mapping[str, int]
    """Kind of error -> how many requests ended so."""
    generator_cpu: float
    """Cores that the load generator itself kept busy, 1.0 for one whole core."""

    @property
    def per_second(self) -> float:
        """Answered requests: the goodput, where some fail."""
        return len(self.latencies_ms) / self.seconds


class _Tally:
    """What was answered while it counts."""

    def __init__(self) -> None:
        self._counts = False
        self._began = self._cpu = 0.0
        self.latencies: list[float] = []
        self.failures: Counter[str] = Counter()

    def start(self) -> None:
        """Count from now on."""
        self._began, self._cpu = time.perf_counter(), time.process_time()
        self._counts = True

    def close(self) -> Load:
        """Stop counting."""
        seconds = time.perf_counter() - self._began
        busy = (time.process_time() - self._cpu) / seconds
        self._counts = False
        return Load(seconds, np.array(self.latencies), dict(self.failures), busy)

    async def ask(self, caller: Caller, number: int, due: float) -> None:
        """Send one request, and note how long after `due` its answer came."""
        try:
            await caller(number)
        except Exception as error:  # noqa: BLE001 - whatever a client raises is a failed request
            if self._counts:
                self.failures[type(error).__name__] += 1
            return
        if self._counts:
            self.latencies.append((time.perf_counter() - due) * 1000)


def hold(
    server: Running,
    app: str,
    labels: Sequence[str],
    requests: Sequence[Request],
    load: Callable[[Caller], Awaitable[Load]],
) -> Load:
    """Connect, hold a load, and hang up.

    Args:
        server: Whom to ask.
        app: The app.
        labels: Its labels, in order.
        requests: What the callers' numbers count.
        load: One of the loads below, of a caller.
    """

    async def run() -> Load:
        async with connected(server, app, labels, requests) as caller:
            return await load(caller)

    return asyncio.run(run())


async def closed_loop(
    caller: Caller, *, in_flight: int, seconds: float, warm_up_s: float | None = None
) -> Load:
    """Keep so many requests under way, always: the next one is sent when one is answered.

    Args:
        caller: Whom to ask.
        in_flight: Requests under way at any time, at least 1.
        seconds: How long answers are counted; longer where fewer came than there are in flight.
        warm_up_s: How long they are not counted before; None for a fifth of `seconds`, and no less
            than half a second.
    """
    warm_up_s = max(seconds / 5, LEAST_WARM_UP_S) if warm_up_s is None else warm_up_s
    tally = _Tally()
    stopped = False
    sent = 0

    async def keep_asking() -> None:
        nonlocal sent
        while not stopped:
            sent += 1
            await tally.ask(caller, sent - 1, time.perf_counter())
            # A server that refuses at once must not keep the event loop from its timers.
            await asyncio.sleep(0)

    asking = [asyncio.create_task(keep_asking()) for _ in range(in_flight)]
    try:
        await asyncio.sleep(warm_up_s)
        tally.start()
        await asyncio.sleep(seconds)
        # A server that is slow, or answers in large batches, gets the time that it needs.
        for _ in range(PATIENCE):
            if len(tally.latencies) + sum(tally.failures.values()) >= max(in_flight, LEAST_ANSWERS):
                break
            await asyncio.sleep(seconds)
        load = tally.close()
        stopped = True
        await asyncio.gather(*asking)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    return load


async def open_loop(caller: Caller, *, rate: float, seconds: float, seed: int) -> Load:
    """Send requests when they are due, whether or not earlier ones are answered.

    Latency counts from when a request was due, so a stalled server, or a late load generator,
    cannot hide in the requests that it kept from being sent.

    Args:
        caller: Whom to ask.
        rate: Requests per second; the gaps between them are exponential (Poisson arrivals).
        seconds: How long requests are sent; all of them are waited for and counted.
        seed: Of the gaps: the same seed asks every contender at the same times.
    """
    due = poisson_times(rate, seconds, seed)
    tally = _Tally()
    tally.start()
    began = time.perf_counter()
    asking = []
    for number, offset in enumerate(due):
        await asyncio.sleep(max(began + offset - time.perf_counter(), 0))
        asking.append(asyncio.create_task(tally.ask(caller, number, began + offset)))
    await asyncio.sleep(max(began + seconds - time.perf_counter(), 0))
    await asyncio.gather(*asking)
    return tally.close()


def poisson_times(rate: float, seconds: float, seed: int) -> npt.NDArray[np.float64]:
    """When the requests of `open_loop` are due, in seconds from its beginning."""
    random = np.random.default_rng(seed)
    gaps = random.exponential(1 / rate, max(int(rate * seconds * 2), 16))
    due = np.cumsum(gaps)
    within: npt.NDArray[np.float64] = due[due < seconds]
    return within


async def pile(caller: Caller, *, items: int, in_flight: int) -> Load:
    """Work off a pile of items, as fast as possible.

    Args:
        caller: Whom to ask.
        items: How many.
        in_flight: Requests under way at any time.
    """
    tally = _Tally()
    tally.start()
    numbers = iter(range(items))

    async def work() -> None:
        for number in numbers:
            await tally.ask(caller, number, time.perf_counter())

    await asyncio.gather(*(work() for _ in range(in_flight)))
    return tally.close()
