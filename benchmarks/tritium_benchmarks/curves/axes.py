"""What is varied, one thing at a time, around the everyday request: a text and a 640x427 JPEG.

for point in AXES["words"].points(cores=2):
    point.x, point.workload, point.in_flight
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tritium_benchmarks.workload import Closed, Mix, PictureKind, Words, Workload

ALONE = 1
BUSY = 16
"""Requests in flight: where latency is told, and where throughput is."""
CROWD = 64
"""So many that every batch can be full."""


@dataclass(frozen=True)
class Point:
    """One place on an axis, under one load."""

    x: int
    in_flight: int
    workload: Workload
    max_batch: int | None = None
    """Requests in one engine call; None for what the release has."""
    cores: int | None = None
    """That the server and whoever asks it may use; None for all."""


@dataclass(frozen=True)
class Axis:
    """One thing that is varied."""

    name: str
    title: str
    unit: str
    """What `x` counts."""
    points: Callable[[int], list[Point]]
    """From the number of cores to the places."""


def workload(
    *, words: int = 9, width: int = 640, text_only: bool = False, distinct: int = 32
) -> Workload:
    """Requests that are all alike: so many words, and a JPEG of so many pixels' width, 3:2."""
    return Workload(
        name="curve",
        about="One place on a curve.",
        mix=Mix(text_only=1.0 if text_only else 0.0, distinct=distinct),
        texts=Words(median=words, sigma=0, most=max(words, 1)),
        pictures=(PictureKind(format="jpeg", width=width, height=round(width * 2 / 3)),),
        arrivals=Closed(kind="closed", in_flight=(ALONE, BUSY)),
    )


def _both_loads(xs: Sequence[int], make: Callable[[int], Workload]) -> list[Point]:
    made = {x: make(x) for x in xs}
    return [Point(x, in_flight, made[x]) for x in xs for in_flight in (ALONE, BUSY)]


def _in_flight(_cores: int) -> list[Point]:
    asked = workload()
    return [Point(count, count, asked) for count in (1, 2, 4, 8, 16, 32, 64, 128, 256)]


def _batch(_cores: int) -> list[Point]:
    asked = workload()
    return [Point(size, CROWD, asked, max_batch=size) for size in (1, 2, 4, 8, 16, 32)]


def _width(_cores: int) -> list[Point]:
    # Few of the large ones: each has megabytes.
    widths = (64, 160, 320, 640, 1280, 2560, 4243)
    return _both_loads(
        widths, lambda width: workload(width=width, distinct=32 if width < 2000 else 6)
    )


def _words(_cores: int) -> list[Point]:
    return _both_loads((1, 4, 8, 16, 32, 64, 126), lambda words: workload(words=words))


def _words_alone(_cores: int) -> list[Point]:
    return _both_loads(
        (1, 4, 8, 16, 32, 64, 126), lambda words: workload(words=words, text_only=True)
    )


def _cores(cores: int) -> list[Point]:
    counts = sorted({1, *(1 << power for power in range(cores.bit_length())), cores})
    asked = workload()
    return [
        Point(count, in_flight, asked, cores=count)
        for count in counts
        if count <= cores
        for in_flight in (ALONE, BUSY)
    ]


AXES: dict[str, Axis] = {
    axis.name: axis
    for axis in (
        Axis("concurrency", "Requests in flight", "requests in flight", _in_flight),
        Axis("batch", "Requests in one engine call", "requests in one engine call", _batch),
        Axis("picture", "Size of the pictures", "pixels in width, JPEG 3:2", _width),
        Axis("words", "Length of the texts, with a picture", "words, of a token each", _words),
        Axis("text", "Length of the texts, without a picture", "words, of a token each",
             _words_alone),
        Axis("cores", "Cores, for the server and whoever asks it", "cores", _cores),
    )
}  # fmt: skip
