"""Which of several servers takes the next request: round robin, without those that just failed.

A server that could not be reached, or let the deadlines of several requests in a row pass, is left
out for a while that doubles with each failure in a row.
Then one request tries it; the others go on without it until that one has come back. When every
server is left out, the one whose turn is nearest is tried: no answer is worse than a late one.

The first turn is drawn by chance, so that many short-lived clients do not all ask the same server.

Source: Envoy's outlier detection (consecutive failures, base ejection time), for one client.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Container
from dataclasses import dataclass

FIRST_EJECTION_S = 0.25
LONGEST_EJECTION_S = 8.0
TIMEOUTS_IN_A_ROW = 3
"""One request may be slow for reasons of its own; several are a server that does not answer."""


@dataclass
class _Health:
    failures: int = 0
    """In a row."""
    timeouts: int = 0
    """Deadlines that passed in a row."""
    back_at: float = 0.0
    """When it may be tried again."""
    on_trial: bool = False
    """One request is trying it."""


class Rotation:
    """Chooses among servers by index. Safe to use from several threads.

    Args:
        count: How many servers there are, at least 1.
        clock: Seconds; a test gives its own.
        first: Whose turn is first; None draws it.
    """

    def __init__(
        self,
        count: int,
        clock: Callable[[], float] = time.monotonic,
        first: int | None = None,
    ) -> None:
        self._health = [_Health() for _ in range(count)]
        self._clock = clock
        self._lock = threading.Lock()
        self._next = random.randrange(count) if first is None else first  # noqa: S311 - see top

    def choose(self) -> int:
        """The server that takes the next request."""
        chosen = self.choose_another(())
        assert chosen is not None  # noqa: S101 - there is at least one
        return chosen

    def choose_another(self, asked: Container[int]) -> int | None:
        """The server that takes a request which others had already; None when all of them had.

        Args:
            asked: Those that had it.
        """
        with self._lock:
            now = self._clock()
            count = len(self._health)
            turn = [(self._next + step) % count for step in range(count)]
            turn = [index for index in turn if index not in asked]
            if not turn:
                return None
            chosen = next((index for index in turn if self._takes(index, now)), None)
            if chosen is None:
                chosen = min(turn, key=lambda index: self._health[index].back_at)
            self._next = (chosen + 1) % count
            health = self._health[chosen]
            health.on_trial = health.failures > 0
            return chosen

    def _takes(self, index: int, now: float) -> bool:
        health = self._health[index]
        return health.failures == 0 or (now >= health.back_at and not health.on_trial)

    def succeeded(self, index: int) -> bool:
        """Note an answer, whatever it said.

        Returns:
            Whether the server had been left out before.
        """
        with self._lock:
            was_out = self._health[index].failures > 0
            self._health[index] = _Health()
            return was_out

    def failed(self, index: int) -> float:
        """Note that a server was not there.

        Returns:
            Seconds for which it is left out.
        """
        with self._lock:
            return self._eject(self._health[index])

    def timed_out(self, index: int) -> float:
        """Note that a server did not answer within a call's deadline, or before a hedge did.

        Returns:
            Seconds for which it is left out; 0 when this alone says little of it.
        """
        with self._lock:
            health = self._health[index]
            health.timeouts += 1
            health.on_trial = False
            if health.timeouts < TIMEOUTS_IN_A_ROW and health.failures == 0:
                return 0.0
            return self._eject(health)

    def _eject(self, health: _Health) -> float:
        health.failures += 1
        doublings = min(health.failures - 1, 16)
        pause: float = min(LONGEST_EJECTION_S, FIRST_EJECTION_S * 2**doublings)
        health.back_at = self._clock() + pause
        health.on_trial = False
        return pause

    def gave_up(self, index: int) -> None:
        """Note that a request ended without saying anything of the server."""
        with self._lock:
            self._health[index].on_trial = False
