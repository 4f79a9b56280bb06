"""Which items belong together: names that mean the same, and pictures that look the same."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

CELLS = 16
"""A picture is compared as a mosaic of 16 x 16 cells."""
SAME_SHAPE = 0.97
"""Correlation of two mosaics' grey levels from which pictures are the same, in other colours."""
SAME_COLOURS = 0.02
"""Mean difference of two mosaics' colours, 0 to 1, up to which they are the same: what tells two
line drawings on white apart is little."""
SAME_ASPECT = 1.1
"""Largest ratio of two aspect ratios."""


class Joined:
    """Names that mean the same; each set is called by the name that came first."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}
        self._order: dict[str, int] = {}

    def join(self, one: str, other: str) -> None:
        """Say that two names mean the same."""
        first, second = self.name(one), self.name(other)
        if self._order[first] > self._order[second]:
            first, second = second, first
        self._parent[second] = first

    def name(self, one: str) -> str:
        """The name of the set that a name is in."""
        self._order.setdefault(one, len(self._order))
        path = []
        while (above := self._parent.setdefault(one, one)) != one:
            path.append(one)
            one = above
        for passed in path:
            self._parent[passed] = one
        return one


def near_duplicates(pictures: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Find pictures that are the same but for colour or for a detail.

    Args:
        pictures: Encoded pictures; transparency is laid over white.

    Yields:
        Positions of two that look the same, the smaller one first.
    """
    if not pictures:
        return
    mosaics, aspects = zip(*(_mosaic(picture) for picture in pictures), strict=True)
    colours = np.stack(mosaics)
    grey = colours.reshape(len(colours), -1, 3).mean(-1)
    grey -= grey.mean(1, keepdims=True)
    grey /= np.maximum(np.linalg.norm(grey, axis=1, keepdims=True), 1e-6)
    logarithms = np.log(np.array(aspects))
    for index in range(len(colours) - 1):
        behind = logarithms[index + 1 :] - logarithms[index]
        likely = index + 1 + np.flatnonzero(np.abs(behind) <= np.log(SAME_ASPECT))
        shape = grey[likely] @ grey[index]
        difference = np.abs(colours[likely] - colours[index]).mean(1)
        for other in likely[(shape >= SAME_SHAPE) | (difference <= SAME_COLOURS)]:
            yield index, int(other)


def _mosaic(picture: bytes) -> tuple[npt.NDArray[np.float32], float]:
    """Colours FP32 [CELLS * CELLS * 3], 0 to 1, and width / height."""
    with Image.open(io.BytesIO(picture)) as image:
        over = image.convert("RGBA")
    white = Image.new("RGBA", over.size, (255, 255, 255, 255))
    cells = Image.alpha_composite(white, over).convert("RGB")
    small = cells.resize((CELLS, CELLS), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).ravel() / 255, over.width / over.height
