"""What a method gives back, and how pixels are summed up in regions."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Attributions:
    """What each token and each pixel adds to one output."""

    tokens: Values | None
    """FP64 [L]; None where the method says nothing about texts."""
    pixels: Values | None
    """FP64 [H, W]; None where the method says nothing about pictures."""
    baseline: float | None = None
    """The output for the blank item, of a method whose attributions add up from there."""
    averaged: bool = False
    """Whether each pixel has all that its surroundings add, so that a region is a mean of them."""
    notes: tuple[str, ...] = field(default=())


def regions(pixels: Values, count: int, *, averaged: bool = False) -> Values:
    """Sum pixels up in `count` rows and columns of regions; the total stays the same.

    Args:
        pixels: FP64 [H, W].
        count: At most H and W.
        averaged: Take means in place of sums.

    Returns:
        FP64 [count, count].
    """
    if averaged:
        return regions(pixels, count) / regions(np.ones_like(pixels), count)
    rows = np.linspace(0, pixels.shape[0], count + 1).astype(int)[:-1]
    columns = np.linspace(0, pixels.shape[1], count + 1).astype(int)[:-1]
    summed: Values = np.add.reduceat(np.add.reduceat(pixels, rows, axis=0), columns, axis=1)
    return summed
