"""Everything that callers send, for a while: no error, no growth, and as fast as at first.

An hour in `make test-full`, where throughput counts too; a short while in `make test`.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.e2e.test_memory import MAX_GROWTH_MB, in_flight, own_mb
from tests.support.hostile import GOOD_IMAGE, GOOD_TEXT
from tests.support.pictures import jpeg, png
from tritium_client import Client, InvalidInput
from tritium_deploy import Server

pytestmark = pytest.mark.e2e

FULL = bool(os.environ.get("TRITIUM_TEST_FULL"))
SECONDS = float(os.environ.get("TRITIUM_SOAK_S", "3600" if FULL else "8"))
WARM_UP_S = SECONDS / 10
WINDOW_S = SECONDS / 60
"""Throughput is counted in windows: of a minute, in an hour."""
CALLERS = 8
SETTLING_MB = 250
"""In the first minute, until every process has met its largest batches; then there is no more."""
LEAST_SHARE = 0.95
"""Of the first windows' throughput, that the last ones have."""

LARGE = jpeg(3000, 2000)
WORDS = "a small red apple on an old wooden table near the window of a quiet house"


def kinds() -> list[Callable[[Client], object]]:
    """One request of each kind."""
    asks: list[dict[str, object]] = [
        {"text": GOOD_TEXT, "image": GOOD_IMAGE},
        {"text": WORDS},
        {"image": png(640, 427)},
        {"text": f"{WORDS} " * 8, "image": jpeg(640, 427)},
        {"text": "x", "image": LARGE},
        {"image": jpeg(640, 427), "text": WORDS},
    ]

    def asker(given: dict[str, object]) -> Callable[[Client], object]:
        return lambda client: client.classify(**given, timeout_s=60)  # type: ignore[arg-type]

    def refused(client: Client) -> object:
        with pytest.raises(InvalidInput):
            client.classify(text="x", image=GOOD_IMAGE[:-50], timeout_s=60)
        return None

    return [*map(asker, asks), refused]


def machine_speed() -> float:
    """How fast this machine is just now: its neighbours slow it down by a third, some hours."""
    values = np.random.default_rng(0).random((256, 256), np.float32)
    began, count = time.process_time(), 0
    while time.process_time() - began < 1:
        values @ values
        count += 1
    return count


def test_mixed_load_changes_nothing(server: Server) -> None:
    ends: list[float] = []
    stop = threading.Event()

    def call(client: Client, number: int) -> None:
        for ask in itertools.islice(itertools.cycle(kinds()), number, None):
            if stop.is_set():
                return
            ask(client)
            ends.append(time.monotonic())

    pids = server.pids
    speed = machine_speed()
    with Client(server.grpc_url, app="openmoji") as client, ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(call, client, number) for number in range(CALLERS)]
        try:
            time.sleep(WARM_UP_S)
            began, before = time.monotonic(), own_mb(server)
            while time.monotonic() < began + SECONDS and not any(one.done() for one in callers):
                time.sleep(min(1.0, WINDOW_S))
            after = own_mb(server)
        finally:
            stop.set()
        for caller in callers:
            caller.result(120)
    change = machine_speed() / speed
    windows = Counter(int((end - began) / WINDOW_S) for end in ends if began <= end)
    last = int(SECONDS / WINDOW_S) - 1
    print(
        f"{len(ends)} answers in {SECONDS:.0f} s; {windows[0]} in the first {WINDOW_S:.0f} s, "
        f"{windows[last]} in the last; the machine itself: {change:.2f}; "
        f"{before:.0f} MB, {after - before:+.0f} MB"
    )
    assert after - before < (MAX_GROWTH_MB if FULL else SETTLING_MB)
    assert server.pids == pids, "a process died and was replaced"
    assert in_flight(server) == 0
    if FULL:
        assert windows[last] / windows[0] > LEAST_SHARE * min(change, 1.0)
