"""What callers asked, and what became of every single request."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tests.deploy import tiny_servable

from tritium_client import AsyncClient, Classification, Client, TritiumClientError

TIMEOUT_S = 3.0
LATE_S = TIMEOUT_S + 1.5
"""A call that has not ended by then has broken its promise."""
BIAS = 0.5
"""Of the tiny app."""
PAUSE_S = 0.05
"""Between two calls of a caller."""
ROWS = 12
"""In one batch of `classify_many`."""


@dataclass
class Ledger:
    """Every request is entered before it is sent, and crossed out by how it ended."""

    asked: Counter[str] = field(default_factory=Counter)
    """By caller."""
    answered: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    """`caller: exception`, of the SDK's own exceptions."""
    broken: list[str] = field(default_factory=list)
    """What must not be: wrong answers, other exceptions, calls without an end, answers twice."""
    slowest_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, caller: str, count: int = 1) -> float:
        """Note what is about to be asked; when."""
        with self._lock:
            self.asked[caller] += count
        return time.monotonic()

    def cross_out(
        self, caller: str, number: int, ended: object, began: float, *, calls: int = 1
    ) -> None:
        """Note how one request ended: with an answer or an exception.

        Args:
            caller: Who asked.
            number: Of its inputs; see `inputs`.
            ended: The answer, or the exception.
            began: From `enter`.
            calls: How many took turns since then.
        """
        seconds = time.monotonic() - began
        with self._lock:
            if isinstance(ended, Classification):
                self.answered[caller] += 1
                if not np.allclose(ended.probabilities, expected(number), atol=1e-6):
                    self.broken.append(f"{caller}: {number} was answered with {ended}")
            elif isinstance(ended, TritiumClientError):
                self.failed[f"{caller}: {type(ended).__name__}"] += 1
            else:
                self.broken.append(f"{caller}: {number} ended with {ended!r}")
            self.slowest_s = max(self.slowest_s, seconds / calls)
            if seconds > LATE_S * calls:
                self.broken.append(f"{caller}: {number} ended after {seconds:.1f} s")

    def balance(self) -> dict[str, Any]:
        """What was asked must be what was answered and what failed."""
        return {
            "asked": self.asked.total(),
            "answered": self.answered.total(),
            "failed": self.failed.total(),
            "by caller": dict(self.asked),
            "failures": dict(self.failed),
            "slowest call, s": round(self.slowest_s, 2),
        }


def inputs(number: int) -> dict[str, Any]:
    """What request `number` asks about."""
    return {"text": f"caller {number}", "image": b"pixels" * (number % 9 + 1)}


def expected(number: int) -> Any:
    """The right answer to it, FP32 [labels]."""
    given = inputs(number)
    return tiny_servable.probabilities(
        tiny_servable.text_features(given["text"].encode()),
        tiny_servable.image_features(given["image"]),
        BIAS,
    )


@contextmanager
def callers(ledger: Ledger, servers: Sequence[str], proxy: str) -> Iterator[None]:
    """Ask until the block ends: one by one, in batches and from tasks, with and without Envoy."""
    stop = threading.Event()
    work: list[tuple[str, Callable[..., None], str | Sequence[str]]] = [
        ("three servers", _one_by_one, servers),
        ("Envoy", _one_by_one, proxy),
        ("batches", _in_batches, servers),
        ("tasks", lambda *own: asyncio.run(_from_tasks(*own)), proxy),
    ]
    threads = [
        threading.Thread(target=_guarded, args=(ledger, name, ask, url, stop), name=name)
        for name, ask, url in work
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(ROWS * LATE_S)
            if thread.is_alive():
                ledger.broken.append(f"{thread.name}: a call never ended")


def _guarded(ledger: Ledger, name: str, ask: Callable[..., None], *rest: Any) -> None:
    try:
        ask(ledger, name, *rest)
    except Exception as error:  # noqa: BLE001 - that a caller ends is what must not be
        ledger.broken.append(f"{name}: the caller ended with {error!r}")


def _one_by_one(ledger: Ledger, name: str, url: Any, stop: threading.Event) -> None:
    with Client(url, app="tiny") as client:
        for number in itertools.count():
            if stop.wait(PAUSE_S):
                return
            began = ledger.enter(name)
            try:
                ended: object = client.classify(**inputs(number), timeout_s=TIMEOUT_S)
            except Exception as error:  # noqa: BLE001 - the ledger says which may be
                ended = error
            ledger.cross_out(name, number, ended, began)


def _in_batches(ledger: Ledger, name: str, url: Any, stop: threading.Event) -> None:
    with Client(url, app="tiny") as client:
        for first in itertools.count(step=ROWS):
            if stop.wait(PAUSE_S * ROWS):
                return
            rows = [inputs(number) for number in range(first, first + ROWS)]
            began, seen = ledger.enter(name, ROWS), set()
            for item in client.classify_many(rows, concurrency=4, timeout_s=TIMEOUT_S):
                if item.index in seen:
                    ledger.broken.append(f"{name}: row {item.index} came twice")
                seen.add(item.index)
                ended = item.error or item.result
                # Three turns of four; all of them may take their whole time.
                ledger.cross_out(name, first + item.index, ended, began, calls=ROWS // 4)


async def _from_tasks(ledger: Ledger, name: str, url: Any, stop: threading.Event) -> None:
    async def ask(client: AsyncClient, number: int) -> None:
        began = ledger.enter(name)
        try:
            ended: object = await client.classify(**inputs(number), timeout_s=TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 - the ledger says which may be
            ended = error
        ledger.cross_out(name, number, ended, began)

    async with AsyncClient(url, app="tiny") as client, asyncio.TaskGroup() as tasks:
        for number in itertools.count():
            if stop.is_set():
                return
            tasks.create_task(ask(client, number))
            await asyncio.sleep(PAUSE_S)
