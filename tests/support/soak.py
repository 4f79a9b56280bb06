"""Many calls of many clients in one process, and what they leave behind: run by test_soak.py.

    python -m tests.support.soak HOST:PORT CALLS

Each round makes clients, uses them from threads and tasks at once, and closes them. Between rounds
nothing is open, so that whatever grows there was left behind. The server is one with the tiny apps
of demo_repository.py.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.support.demo_repository import APP, expected_label
from tritium_client import (
    AppNotFound,
    AsyncClient,
    Client,
    DeadlineExceeded,
    HedgePolicy,
    InvalidInput,
    RetryPolicy,
    ServerError,
    TritiumClientError,
)

THREADS = 4
TASKS = 8
CALLS_EACH = 40
ROUND_CALLS = (THREADS + TASKS) * CALLS_EACH
WARM_UP_ROUNDS = 2
PLACES = 8
"""For each client: one that is not given back is soon missed."""
LARGE = 300_000
"""Bytes that travel through shared memory, where the client is told so."""
SETTLE_S = 15.0
"""For what gRPC ends in the background after a channel was closed."""
GOOD_S = 20.0


@dataclass(frozen=True)
class Case:
    """One call, and how it must end."""

    arguments: dict[str, Any]
    ends_with: str
    """A label, or the name of an exception."""


def _good(text: bytes = b"", image: bytes = b"") -> Case:
    first_byte = image[0] if image else 0
    given: dict[str, Any] = {"text": text or None, "image": image or None, "timeout_s": GOOD_S}
    return Case(given, expected_label(1, text=text, first_byte=first_byte))


def _fails(error: type[Exception], **arguments: Any) -> Case:
    return Case({"timeout_s": GOOD_S, **arguments}, error.__name__)


GOOD = (
    *(_good(b"x" * length) for length in (1, 2, 3)),
    _good(b"red apple", b"\x01picture" * 100),
    _good(image=b"\x02picture"),
    _good(image=b"\x03" * LARGE),
)
BAD = (
    _fails(InvalidInput, text="bad"),
    _fails(InvalidInput, text="red apple", image=b"bad"),
    _fails(InvalidInput, text=""),
    _fails(InvalidInput, text="a", image=Path("/there/is/no/such.png")),
    _fails(ValueError, text="a", top_k=0),
)
RARE = (
    _fails(ServerError, text="crash"),
    _fails(AppNotFound, text="a", app="missing"),
)
SLOW = Case({"text": "sleep0.02", "timeout_s": GOOD_S}, expected_label(1))
"""Gets a second request beside it from clients that hedge."""
LATE = _fails(DeadlineExceeded, text="sleep0.02", timeout_s=0.01)


def cases(seed: int, *, one_server: bool) -> Iterator[Case]:
    """Calls in an order that `seed` fixes.

    Deadlines that pass count against a server. Only a client with one is asked for them.
    """
    draw = random.Random(seed)
    for _ in range(CALLS_EACH):
        kind = draw.random()
        if kind < 0.02:
            yield LATE if one_server else SLOW
        elif kind < 0.04:
            yield draw.choice(RARE)
        elif kind < 0.35:
            yield draw.choice(BAD)
        else:
            yield draw.choice(GOOD)


@dataclass
class Seen:
    """How calls ended. Safe to use from several threads."""

    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    again: int = 0
    """Requests that were sent beyond the first of their call."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, case: Case, end: str, attempts: int) -> None:
        """Note how one call ended."""
        with self.lock:
            self.ends[end] += 1
            self.again += max(0, attempts - 1)
            if end != case.ends_with:
                self.wrong.append(f"{case.arguments} ended with {end}, not {case.ends_with}")


def _end_of(error: Exception, case: Case) -> tuple[str, int]:
    name = type(error).__name__
    end = name if name == case.ends_with else f"{name}: {error}"
    return end, error.attempts if isinstance(error, TritiumClientError) else 0


def _call(client: Client, case: Case, seen: Seen) -> None:
    try:
        answer = client.classify(**case.arguments)
    except (TritiumClientError, ValueError) as error:
        seen.note(case, *_end_of(error, case))
    else:
        seen.note(case, answer.label, answer.timing.attempts)


async def _call_async(client: AsyncClient, case: Case, seen: Seen) -> None:
    try:
        answer = await client.classify(**case.arguments)
    except (TritiumClientError, ValueError) as error:
        seen.note(case, *_end_of(error, case))
    else:
        seen.note(case, answer.label, answer.timing.attempts)


def _settings(url: str, dead: str) -> list[dict[str, Any]]:
    """Of a plain client, and of one with everything else, beside a server that is not there."""
    common = {"app": APP, "max_in_flight": PLACES}
    patient = RetryPolicy(attempts=5, budget=1.0, burst=100, first_pause_s=0.005)
    return [
        {"url": url, **common},
        {
            "url": [url, dead],
            "retries": patient,
            "hedging": HedgePolicy(after=10),
            "transport": "shared_memory",
            **common,
        },
    ]


def in_threads(url: str, dead: str, seed: int, seen: Seen) -> None:
    """Call from several threads that share two clients."""
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(**given)) for given in _settings(url, dead)]

        def work(number: int) -> None:
            client = clients[number % 2]
            for case in cases(seed + number, one_server=number % 2 == 0):
                _call(client, case, seen)

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, range(THREADS)))
        for client in clients:
            for place in range(PLACES):
                if not client._sender._slots.take(SETTLE_S):  # who lost a race may still hold one
                    seen.wrong.append(f"place {place} was not given back")
                    break


async def in_tasks(url: str, dead: str, seed: int, seen: Seen) -> None:
    """Call from several tasks that share two clients; some calls are cancelled."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(AsyncClient(**given)) for given in _settings(url, dead)
        ]

        async def work(number: int) -> None:
            client = clients[number % 2]
            for case in cases(seed + number, one_server=number % 2 == 0):
                await _call_async(client, case, seen)
            cancelled = asyncio.create_task(client.classify(**SLOW.arguments))
            await asyncio.sleep(0.002)
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)

        await asyncio.gather(*(work(number) for number in range(TASKS)))
        for client in clients:
            for place in range(PLACES):
                if not await client._sender._slots.take(SETTLE_S):
                    seen.wrong.append(f"place {place} was not given back")
                    break


@dataclass(frozen=True)
class Belongings:
    """What this process holds."""

    resident_mb: float
    python_threads: int
    threads: int
    files: int
    connections: int
    mapped: int
    """Files in /dev/shm."""

    def holds(self, later: Belongings) -> bool:
        """Whether nothing was added since; memory aside, which is never given back exactly."""
        ours, theirs = dataclasses.asdict(self), dataclasses.asdict(later)
        return all(theirs[name] <= ours[name] for name in ours if name != "resident_mb")


def belongings() -> Belongings:
    """Look at this process, with everything collected that can be."""
    gc.collect()
    process = psutil.Process()
    maps = Path("/proc/self/maps").read_text("utf-8")
    return Belongings(
        resident_mb=process.memory_info().rss / 2**20,
        python_threads=threading.active_count(),
        threads=process.num_threads(),
        files=process.num_fds(),
        connections=len(process.net_connections()),
        mapped=maps.count("/dev/shm/"),
    )


async def settled(fits: Callable[[Belongings], bool]) -> Belongings:
    """Look until what was closed is gone, or for `SETTLE_S`."""
    deadline = time.monotonic() + SETTLE_S
    while not fits(now := belongings()) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    return now


async def soak(url: str, calls: int) -> dict[str, Any]:
    """Warm up and call.

    In one event loop, as services do: where a loop follows another one, gRPC 1.85 writes a
    traceback for each call that the first one had cancelled just before its end.

    Args:
        url: host:port of the server.
        calls: How many, to a round.

    Returns:
        What was seen.
    """
    with socket.socket() as taken:  # by nobody who listens
        taken.bind(("127.0.0.1", 0))
        return await _rounds(url, f"127.0.0.1:{taken.getsockname()[1]}", calls)


async def _rounds(url: str, dead: str, calls: int) -> dict[str, Any]:
    seen, before = Seen(), belongings()
    for number in range(WARM_UP_ROUNDS + calls // ROUND_CALLS):
        if number == WARM_UP_ROUNDS:
            before = await settled(lambda now: now.connections == 0 and now.python_threads == 1)
            seen = Seen()
        threads = threading.Thread(target=in_threads, args=(url, dead, number * TASKS, seen))
        threads.start()
        await in_tasks(url, dead, number * TASKS, seen)
        threads.join()
        if seen.wrong:
            break
    after = await settled(before.holds)
    return {
        "calls": seen.ends.total(),
        "ends": seen.ends,
        "again": seen.again,
        "wrong": seen.wrong[:20],
        "before": dataclasses.asdict(before),
        "after": dataclasses.asdict(after),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(soak(sys.argv[1], int(sys.argv[2])))))
