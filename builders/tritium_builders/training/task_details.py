"""What a report says, item by item or label by label, where the task is no classification."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tritium_builders.errors import needs
from tritium_builders.training.records import Record

PAIRS = 400
"""Items of a regression that are drawn; of more, every n-th."""

Values = npt.NDArray[np.float32]


class ThresholdScores(Record):
    """How the bundle's head does on one of several labels; all but `items` are 0 to 1."""

    threshold: float
    """From which probability on it holds, as validation chose."""
    precision: float
    recall: float
    f1: float
    items: int


class ScoreFit(Record):
    """How the bundle's head predicts one score."""

    mean_absolute_error: float
    """In the score's own unit."""
    r2: float
    """1 is perfect, 0 no better than always the mean."""
    pairs: list[tuple[float, float]]
    """What is right, and what was answered."""


def threshold_scores(
    labels: Sequence[str], answers: Values, targets: Values, thresholds: Sequence[float]
) -> dict[str, ThresholdScores]:
    """Judge each label on its own.

    Args:
        labels: In the order of the probabilities.
        answers: FP32 [N, K].
        targets: FP32 [N, K], 1 for a label that holds.
        thresholds: Of each label.

    Raises:
        MissingExtraError: when scikit-learn is not installed.
    """
    with needs("train"):
        from sklearn.metrics import precision_recall_fscore_support

    found = answers >= np.array(thresholds)
    rows = zip(
        labels,
        thresholds,
        *precision_recall_fscore_support(targets == 1, found, average=None, zero_division=0.0),
        strict=True,
    )
    return {
        label: ThresholdScores(
            threshold=threshold,
            precision=round(float(precision), 6),
            recall=round(float(recall), 6),
            f1=round(float(f1), 6),
            items=int(items),
        )
        for label, threshold, precision, recall, f1, items in rows
    }


def score_fits(names: Sequence[str], answers: Values, targets: Values) -> dict[str, ScoreFit]:
    """Judge each score on its own.

    Args:
        names: Of the scores.
        answers: FP32 [N, K], in the scores' own units.
        targets: FP32 [N, K].
    """
    step = max(1, -(-len(targets) // PAIRS))
    fits = {}
    for index, name in enumerate(names):
        right = targets[:, index].astype(np.float64)
        said = answers[:, index].astype(np.float64)
        total = float(((right - right.mean()) ** 2).sum())
        fits[name] = ScoreFit(
            mean_absolute_error=round(float(np.abs(said - right).mean()), 6),
            r2=round(1 - float(((said - right) ** 2).sum()) / total, 6) if total else 0.0,
            pairs=[
                (round(float(one), 6), round(float(other), 6))
                for one, other in zip(right[::step], said[::step], strict=True)
            ],
        )
    return fits
