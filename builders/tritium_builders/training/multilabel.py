"""Multi-label classification: any number of labels hold, each on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from tritium_builders.data import Dataset
from tritium_builders.errors import needs
from tritium_builders.training.imbalance import Balance
from tritium_builders.training.objective import Objective

if TYPE_CHECKING:
    from tritium_builders.training.recipe import Recipe

Values = npt.NDArray[np.float32]


class MultiLabel(Objective):
    """Binary cross-entropy of each label; its score is micro F1 at probability 0.5, 0 to 1.

    Args:
        recipe: The recipe.
        dataset: Items whose targets are the labels that hold.
    """

    measure = "micro F1"

    def __init__(self, recipe: Recipe, dataset: Dataset) -> None:
        self.outputs = len(dataset.labels)
        places = {label: index for index, label in enumerate(dataset.labels)}
        self.targets = torch.zeros(len(dataset.items), self.outputs)
        for row, item in enumerate(dataset.items):
            for label in item.target or ():
                self.targets[row, places[str(label)]] = 1.0
        self._table = recipe.imbalance
        self._smoothing = recipe.optimiser.label_smoothing
        self.balance(torch.arange(len(self.targets)))

    def balance(self, train: Tensor) -> None:
        """Count the labels of the training side.

        Args:
            train: INT64 [N], indices into the data set.
        """
        self._balance = Balance.of(self._table, self.targets[train], self.outputs)

    def epoch(self, train: Tensor) -> Tensor:
        """Every item once; when resampling, items of rare labels several times.

        Args:
            train: INT64 [N], indices into the data set.
        """
        return self._balance.epoch(train, self.targets[train])

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy, with label smoothing and what `[imbalance]` makes of it."""
        smoothed = targets * (1 - self._smoothing) + self._smoothing / 2
        return self._balance.binary_cross_entropy(logits, smoothed)

    def validation_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy, in which yes and no count as they do in training."""
        return self._balance.validation_binary_cross_entropy(logits, targets.to(logits.dtype))

    def calibration_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy: labels count by how often they come, whatever training did."""
        return functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))

    def answers(self, logits: Tensor) -> Tensor:
        """Probabilities, each on its own."""
        return logits.sigmoid()

    def score(self, logits: Tensor, targets: Tensor) -> float:
        """Micro F1 at probability 0.5."""
        return _micro_f1(logits.numpy() >= 0, targets.numpy() == 1)

    def thresholds(self, answers: Values, targets: Values) -> tuple[float, ...]:
        """From which probability on each label holds: where its F1 on the validation side peaks.

        A label that nothing there has keeps 0.5.

        Args:
            answers: FP32 [N, K], probabilities of the validation side.
            targets: FP32 [N, K], 1 for a label that holds.

        Source: Lipton et al. 2014, "Optimal Thresholding of Classifiers to Maximize F1 Measure".
        """
        columns = zip(answers.T, targets.T, strict=True)
        return tuple(_best_threshold(own, right == 1) for own, right in columns)

    def figures(
        self, answers: Mapping[str, Values], targets: Values, thresholds: tuple[float, ...] = ()
    ) -> dict[str, float]:
        """Figures of the held-out items, with all modalities.

        Args:
            answers: FP32 [N, K] by `modalities_key`.
            targets: FP32 [N, K].
            thresholds: From which probability on each label holds.

        Raises:
            MissingExtraError: when scikit-learn is not installed.
        """
        with needs("train"):
            from sklearn.metrics import average_precision_score, f1_score

        values, right = answers["text,image"], targets == 1
        found = values >= np.array(thresholds or [0.5] * values.shape[1])
        occurring = right.any(0)
        return {
            "micro F1": _micro_f1(found, right),
            "macro F1": float(f1_score(right, found, average="macro", zero_division=0.0)),
            "exact sets": float((found == right).all(1).mean()),
            "mean average precision": float(
                average_precision_score(right[:, occurring], values[:, occurring], average="macro")
            ),
        }


def _micro_f1(found: npt.NDArray[np.bool_], right: npt.NDArray[np.bool_]) -> float:
    both = int((found & right).sum())
    total = int(found.sum() + right.sum())
    return 2 * both / total if total else 1.0


def _best_threshold(values: Values, right: npt.NDArray[np.bool_]) -> float:
    """Half-way between the two probabilities that part best."""
    if not right.any():
        return 0.5
    order = np.argsort(-values, kind="stable")
    ordered = values[order].astype(np.float64)
    hits = np.cumsum(right[order])
    f1 = 2 * hits / (np.arange(1, len(values) + 1) + right.sum())
    # Between equal probabilities no threshold parts.
    parts = np.append(ordered[1:] < ordered[:-1], True)
    best = int(np.argmax(np.where(parts, f1, -1.0)))
    below = ordered[best + 1] if best + 1 < len(values) else 0.0
    return round(float((ordered[best] + below) / 2), 6)
