"""How far the simulator was off where it was compared with real servers: what plans say of it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritium_benchmarks.capacity.record import OpenPlace, ReplicaRecord
from tritium_benchmarks.records import Kept, read_kept

_INSTALLED = Path(__file__).parent / "capacity.json"
COMMITTED = Path(__file__).parents[2] / "results" / "capacity.json"
"""The wheel holds it; in a checkout it is among the results."""
BOUNDED = "bounded queue"
"""Loads of servers whose queue has an end, as releases have it. Triton 24.10 looks after such a
queue when a request comes, and else every half second, which the simulator does not do."""
FIELDS = ("p50", "p95", "p99")


class Compared(Kept):
    """One load, measured and simulated."""

    servers: int
    what: str
    """For people."""
    share: float
    """Of what the servers can answer at most."""
    real: OpenPlace
    p50_ms: float
    p95_ms: float
    p99_ms: float
    per_second: float
    failed: float
    """Share of the requests, simulated."""

    def error(self, field: str) -> float | None:
        """Simulated over measured, less one; None where nothing was answered.

        Args:
            field: One of `FIELDS`.
        """
        if self.real.latency is None:
            return None
        return float(getattr(self, f"{field}_ms") / getattr(self.real.latency, field) - 1)

    @property
    def real_failed(self) -> float:
        """Share of the requests, measured."""
        answered = self.real.per_second * self.real.seconds
        failed = sum(self.real.failures.values())
        return failed / max(answered + failed, 1)


class Piles(Kept):
    """So many requests at once and none after them, each once in each turn."""

    requests: int
    batches: int
    least_s: float
    """That the batches take one after the other."""
    endless_s: tuple[float, ...]
    """Until all were answered, by a server whose queue has no end."""
    bounded_s: tuple[float, ...]
    """By one whose queue has."""

    def __str__(self) -> str:
        """One line for people."""
        endless, bounded = self.endless_s, self.bounded_s
        return (
            f"{self.requests} requests at once, {self.batches} batches that take "
            f"{self.least_s:.1f} s, were answered after {min(endless):.1f} to {max(endless):.1f} s "
            f"by a queue without an end, and after {min(bounded):.1f} to {max(bounded):.1f} s by "
            "one with."
        )


class Validation(Kept):
    """What `make capacity-table` compared."""

    manifest: dict[str, Any]
    sleeper: ReplicaRecord
    """Servers that sleep: they disturb nobody."""
    places: tuple[Compared, ...]
    piles: Piles
    demo: ReplicaRecord | None
    """One server of the demo app, which computes."""
    demo_places: tuple[Compared, ...]


@dataclass(frozen=True)
class Error:
    """Of all loads together: the smallest error, the largest, and the median of their sizes."""

    loads: int
    servers: int
    p50: tuple[float, float, float]
    p95: tuple[float, float, float]
    p99: tuple[float, float, float]

    def __str__(self) -> str:
        """One line for people."""
        told = ", ".join(
            f"{field} {100 * low:+.0f} to {100 * high:+.0f} % ({100 * middle:.0f} % in the middle)"
            for field, (low, high, middle) in ((name, getattr(self, name)) for name in FIELDS)
        )
        return (
            f"against 1 to {self.servers} real servers under {self.loads} loads the simulator was "
            f"off by: {told}"
        )


def error_of(places: Sequence[Compared]) -> Error:
    """Sum up, without the loads on bounded queues."""
    counted = [place for place in places if BOUNDED not in place.what]
    errors = {
        field: [error for place in counted if (error := place.error(field)) is not None]
        for field in FIELDS
    }
    told = {
        field: (min(found), max(found), statistics.median(map(abs, found)))
        for field, found in errors.items()
    }
    return Error(len(counted), max(place.servers for place in counted), **told)


def read_validation() -> Validation | None:
    """What was compared last, or None where that is not at hand.

    Raises:
        RecordError: it is not what it should be.
    """
    path = _INSTALLED if _INSTALLED.is_file() else COMMITTED
    return read_kept(Validation, path, "make capacity-table") if path.is_file() else None


def known_error() -> Error | None:
    """Of the comparison that comes with this version."""
    found = read_validation()
    return None if found is None else error_of(found.places)
