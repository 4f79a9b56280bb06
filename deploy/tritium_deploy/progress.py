"""How a start goes on: its steps with their times, and how much of a step is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any

from tritium_deploy.events import Event, EventName, OnEvent


class Clock:
    """Times the steps of a start and tells them."""

    def __init__(self, on_event: OnEvent) -> None:
        self.on_event = on_event
        self.steps: dict[str, float] = {}
        self._began = self._last = time.monotonic()

    @property
    def total_s(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._began

    def step(self, name: EventName, text: str, **fields: Any) -> None:
        """Tell that a step is over, and how long it took."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        self.steps[name] = seconds
        self.on_event(Event.of(name, text, seconds=round(seconds, 3), **fields))

    def tell(self, name: EventName, text: str, **fields: Any) -> None:
        """Tell anything else."""
        self.on_event(Event.of(name, text, **fields))


class Counter:
    """Counts calls from several threads, and reports each."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._lock = threading.Lock()
        self._done = 0
        self._report = report

    def __call__(self) -> None:
        """Count one more."""
        with self._lock:
            self._done += 1
            self._report(self._done)


def in_parallel(
    items: Sequence[str], act: Callable[[str], None], report: Callable[[int], None], at_once: int
) -> None:
    """Do one thing for each item, a few at once, and report how many are done.

    Raises:
        Exception: the first that `act` raised; the rest is not waited for.
    """
    count = Counter(report)

    def one(item: str) -> None:
        act(item)
        count()

    pool = ThreadPoolExecutor(at_once, thread_name_prefix="load")
    try:
        raise_first_error(pool.submit(one, item) for item in items)
    finally:
        # A load that hangs ends with its server; waiting for it here would hang as well.
        pool.shutdown(wait=False, cancel_futures=True)


def raise_first_error(futures: Iterable[Future[None]]) -> None:
    """Wait until all are done, or one has failed, and raise its error."""
    done, _ = wait(list(futures), return_when=FIRST_EXCEPTION)
    for future in done:
        error = future.exception()
        if error is not None:
            raise error
