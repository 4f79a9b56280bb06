"""How good probabilities are: labels, rare labels, and whether they mean what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tritium_builders.errors import needs

BINS = 15
"""Of `calibration_error`: 0 to 1/15, 1/15 to 2/15, and so on."""

Probabilities = npt.NDArray[np.float32]
Targets = npt.NDArray[np.int64]


def accuracy(probabilities: Probabilities, targets: Targets) -> float:
    """Share of the items whose most probable label is right, 0 to 1.

    Args:
        probabilities: FP32 [N, K].
        targets: INT64 [N].
    """
    return float(np.mean(probabilities.argmax(-1) == targets))


def macro_f1(probabilities: Probabilities, targets: Targets) -> float:
    """The mean of all labels' F1, so that a rare label counts as much as a frequent one.

    Args:
        probabilities: FP32 [N, K].
        targets: INT64 [N].

    Raises:
        MissingExtraError: when scikit-learn is not installed.
    """
    with needs("train"):
        from sklearn.metrics import f1_score

    labels: Any = range(probabilities.shape[-1])
    found = f1_score(
        targets, probabilities.argmax(-1), labels=labels, average="macro", zero_division=0.0
    )
    return float(found)


def calibration_error(probabilities: Probabilities, targets: Targets, bins: int = BINS) -> float:
    """Expected calibration error: how far the best label's probability is from its accuracy.

    Items are put into `bins` bins of equal width by the probability of the label that they are
    given; of each bin, the difference of mean probability and accuracy counts by its items.

    Args:
        probabilities: FP32 [N, K].
        targets: INT64 [N].
        bins: How many.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.
    """
    confidence = probabilities.max(-1).astype(np.float64)
    right = probabilities.argmax(-1) == targets
    # Closed on the right, as in the paper: (0, 1/15], (1/15, 2/15], ...
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(places, weights=confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(targets))
