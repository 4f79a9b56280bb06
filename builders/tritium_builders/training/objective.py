"""What training minimises, and how its answers are judged: one objective for each task."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from tritium_builders.data import Dataset
from tritium_builders.training.imbalance import Balance
from tritium_builders.training.recipe import Recipe


class Objective(ABC):
    """What the logits of a head are trained towards.

    Args:
        recipe: The recipe.
        dataset: What is trained on.
    """

    outputs: int
    """How many logits an item has, K."""
    targets: Tensor
    """What is right for each item of the data set, [N] or [N, K]."""

    @abstractmethod
    def __init__(self, recipe: Recipe, dataset: Dataset) -> None: ...

    def balance(self, train: Tensor) -> None:  # noqa: B027 - most tasks have no use for it
        """Count the labels of the training side, for `[imbalance]`; without labels do nothing.

        Args:
            train: INT64 [N], indices into the data set.
        """

    def epoch(self, train: Tensor) -> Tensor:
        """The items of an epoch in their order, INT64 [N]: every one once, unless resampled.

        Args:
            train: INT64 [N], indices into the data set.
        """
        return train[torch.randperm(len(train))]

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What a step of training minimises, FP32 [].

        Args:
            logits: FP32 [B, K].
            targets: Rows of `targets`.
        """

    @abstractmethod
    def validation_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What early stopping watches, FP32 []: the loss without what only training needs."""

    def calibration_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What temperatures are fitted by, FP32 []: how improbable right answers are."""
        return self.validation_loss(logits, targets)

    @abstractmethod
    def answers(self, logits: Tensor) -> Tensor:
        """What a caller is answered with, FP32 [B, K]."""

    @abstractmethod
    def score(self, logits: Tensor, targets: Tensor) -> float:
        """One figure for how good answers are; more is better."""


class SingleLabel(Objective):
    """Classification: one label is right. Cross-entropy; its score is accuracy, 0 to 1."""

    def __init__(self, recipe: Recipe, dataset: Dataset) -> None:
        self.outputs = len(dataset.labels)
        self.targets = torch.tensor(dataset.targets)
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
        """Cross-entropy with label smoothing, and with what `[imbalance]` makes of it."""
        return self._balance.cross_entropy(logits, targets, smoothing=self._smoothing)

    def validation_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, in which labels count as they do in training."""
        return self._balance.validation_cross_entropy(logits, targets)

    def calibration_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy: labels count by how often they come, whatever training did."""
        return functional.cross_entropy(logits, targets)

    def answers(self, logits: Tensor) -> Tensor:
        """Probabilities."""
        return logits.softmax(-1)

    def score(self, logits: Tensor, targets: Tensor) -> float:
        """Accuracy."""
        return float((logits.argmax(-1) == targets).float().mean())


def make_objective(recipe: Recipe, dataset: Dataset) -> Objective:
    """The objective of a recipe's task."""
    return SingleLabel(recipe, dataset)
