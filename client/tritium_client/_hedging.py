"""When a slow request gets a second one beside it: after the time that most answers take.

Few requests are slow because they are hard; most are slow because of where they went: a server
that collects garbage, a queue that is just full. A second request elsewhere usually wins, and only
few are sent twice, since only few take longer than the 95th percentile. Each costs one retry of
the client's budget, so hedges and retries together stay within it.

Source: Dean and Barroso 2013, "The Tail at Scale", Communications of the ACM 56(2) (hedged
requests).
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

WINDOW = 256
"""Answers that are remembered for each entry point."""
REFRESH = 16
"""Answers after which the delay is computed again."""


@dataclass(frozen=True)
class HedgePolicy:
    """How long a request may take before a second one is sent beside it.

    Examples:
        >>> Client(["a:8001", "b:8001"], app="openmoji", hedging=HedgePolicy())
    """

    quantile: float = 0.95
    """Of the times that this client saw for the same kind of request; between 0 and 1."""
    after: int = 20
    """Answers to be seen before the first hedge, at least 1; at most 256."""
    least_delay_s: float = 0.005
    """A hedge is never sent sooner than this, seconds."""

    def __post_init__(self) -> None:
        """Refuse what can never be right.

        Raises:
            ValueError: naming the field.
        """
        if not 0 < self.quantile < 1:
            raise ValueError(f"quantile must be between 0 and 1: {self.quantile}")
        if not 1 <= self.after <= WINDOW:
            raise ValueError(f"after must be between 1 and {WINDOW}: {self.after}")
        if self.least_delay_s < 0:
            raise ValueError(f"least_delay_s must not be negative: {self.least_delay_s}")


class Hedges:
    """What a client knows of the times that answers take. Safe to use from several threads.

    Args:
        policy: When to hedge; None for never.
    """

    def __init__(self, policy: HedgePolicy | None) -> None:
        self._policy = policy
        self._lock = threading.Lock()
        self._seen: dict[str, _Times] = {}

    def note(self, entry_point: str, seconds: float) -> None:
        """Note an answer and the time of the request that won it."""
        if self._policy is None:
            return
        with self._lock:
            times = self._seen.setdefault(entry_point, _Times())
            times.last.append(seconds)
            times.count += 1
            if times.count == self._policy.after or times.count % REFRESH == 0:
                ordered = sorted(times.last)
                times.quantile_s = ordered[int(self._policy.quantile * len(ordered))]

    def delay_s(self, entry_point: str) -> float | None:
        """Seconds after which a request gets a second one; None while too little is known."""
        if self._policy is None:
            return None
        with self._lock:
            times = self._seen.get(entry_point)
            if times is None or times.count < self._policy.after:
                return None
            return max(self._policy.least_delay_s, times.quantile_s)


class _Times:
    def __init__(self) -> None:
        self.last: deque[float] = deque(maxlen=WINDOW)
        self.count = 0
        self.quantile_s = 0.0
