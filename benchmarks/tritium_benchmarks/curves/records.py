"""What a run along the axes measured, as it is kept: `curves.json`.

curves = read_curves("benchmarks/results/curves")
curves.at("cores", in_flight=16)   # x -> the places of all repeats
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tritium_benchmarks.records import Kept, Latency, keep, read_kept

RECORD = "curves.json"


class Place(Kept):
    """One place on an axis under one load, once."""

    axis: str
    x: int
    in_flight: int
    repeat: int
    per_second: float
    latency: Latency | None
    """None where nothing was answered."""
    failures: dict[str, int]
    generator_cpu: float


class Curves(Kept):
    """What a run along the axes measured."""

    app: str
    manifest: dict[str, Any]
    seconds: float
    places: tuple[Place, ...]

    def at(self, axis: str, in_flight: int | None = None) -> dict[int, list[Place]]:
        """X -> the places of all repeats, in the order of the axis."""
        found: dict[int, list[Place]] = {}
        for place in self.places:
            if place.axis == axis and in_flight in (None, place.in_flight):
                found.setdefault(place.x, []).append(place)
        return found


def median(places: Sequence[Place], of: Callable[[Place], float | None]) -> float | None:
    """The median over repeats of what each place says; None where none says anything."""
    values = [value for place in places if (value := of(place)) is not None]
    return statistics.median(values) if values else None


def write_curves(curves: Curves, folder: Path) -> Path:
    """Write `curves.json`.

    Raises:
        RecordError: the folder cannot be written.
    """
    return keep(curves, folder / RECORD)


def read_curves(folder: Path) -> Curves:
    """Read what `write_curves` wrote.

    Raises:
        RecordError: it is not there, or not what it should be.
    """
    return read_kept(Curves, folder / RECORD, "tritium bench curves")
