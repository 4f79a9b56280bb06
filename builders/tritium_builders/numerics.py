"""How far one array of answers is from another."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def difference(expected: Array, actual: Array) -> float:
    """The largest |difference| of two elements; infinite where the shapes differ, NaN for a NaN."""
    if expected.shape != actual.shape:
        return float("inf")
    wide = np.int64 if np.issubdtype(expected.dtype, np.integer) else np.float64
    return float(np.abs(expected.astype(wide) - actual.astype(wide)).max())


def relative_difference(expected: Array, actual: Array) -> float:
    """`difference` over the largest |element| of what was expected."""
    return difference(expected, actual) / (float(np.abs(expected).max()) or 1.0)


def cosine_similarity(expected: Array, actual: Array) -> float:
    """The cosine of two arrays, flattened; 1 or 0 where one of them is all zeros."""
    first, second = expected.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
    scale = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / scale) if scale else float(np.array_equal(first, second))
