"""When a failed call is sent again: which failures, how soon, and how often at the most.

A budget bounds what retries add to the load of a server that is in trouble already: every call
earns a share of a retry, and each retry spends a whole one. The pause before a retry doubles, and
is drawn at random below its bound, so that callers who failed together do not come back together.

Source: "Addressing Cascading Failures" in Beyer et al. 2016, Site Reliability Engineering, chapter
22; Brooker 2015, "Exponential Backoff And Jitter", AWS Architecture Blog (full jitter).
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass

from tritium_client._exceptions import TritiumClientError


@dataclass(frozen=True)
class RetryPolicy:
    """How calls are sent again.

    Examples:
        >>> Client("localhost:8001", app="openmoji", retries=RetryPolicy(attempts=5))
    """

    attempts: int = 3
    """Times that one call may be sent, the first one included; 1 switches retries off."""
    budget: float = 0.2
    """Retries that a call earns: 0.2 adds at most 20 % to the load. 0 to 1."""
    burst: int = 10
    """Retries that may be saved up, and that a new client starts with."""
    first_pause_s: float = 0.05
    """Bound of the pause before the first retry, seconds; it doubles with each."""
    longest_pause_s: float = 1.0
    """Where the bound stops doubling, seconds."""

    def __post_init__(self) -> None:
        """Refuse what can never be right.

        Raises:
            ValueError: naming the field.
        """
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1: {self.attempts}")
        if not 0 <= self.budget <= 1:
            raise ValueError(f"budget must be between 0 and 1: {self.budget}")
        if self.burst < 0:
            raise ValueError(f"burst must not be negative: {self.burst}")
        if not 0 < self.first_pause_s <= self.longest_pause_s:
            raise ValueError(
                "first_pause_s must be positive and at most longest_pause_s: "
                f"{self.first_pause_s}, {self.longest_pause_s}"
            )


class Retries:
    """A client's retry budget. Safe to use from several threads.

    Args:
        policy: How calls are sent again.
        jitter: Draws from 0 to 1; a test gives its own.
    """

    def __init__(self, policy: RetryPolicy, jitter: random.Random | None = None) -> None:
        self._policy = policy
        self._jitter = jitter or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._lock = threading.Lock()
        self._saved = float(policy.burst)

    def earn(self) -> None:
        """Note a new call."""
        with self._lock:
            self._saved = min(float(self._policy.burst), self._saved + self._policy.budget)

    def pause_s(self, error: TritiumClientError, attempt: int, remaining_s: float) -> float | None:
        """Decide whether a failed attempt is made again.

        Args:
            error: How it failed.
            attempt: Which attempt that was, 1 for the first.
            remaining_s: Seconds until the call's deadline.

        Returns:
            Seconds to wait first; None when the call has failed.
        """
        policy = self._policy
        if not error.retryable or attempt >= policy.attempts:
            return None
        bound = min(policy.longest_pause_s, policy.first_pause_s * 2 ** (attempt - 1))
        pause: float = bound * self._jitter.random()
        if pause >= remaining_s or not self.spend():
            return None
        return pause

    def spend(self) -> bool:
        """Take one more request from the budget, if it has one."""
        with self._lock:
            if self._saved < 1:
                return False
            self._saved -= 1
            return True
