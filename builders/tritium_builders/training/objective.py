"""What training minimises, and how its answers are judged: one objective for each task."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from tritium_builders.data import Dataset
from tritium_builders.errors import RecipeError
from tritium_builders.training.metrics import macro_f1
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

    @abstractmethod
    def answers(self, logits: Tensor) -> Tensor:
        """What a caller is answered with, FP32 [B, K]."""

    @abstractmethod
    def score(self, logits: Tensor, targets: Tensor) -> float:
        """One figure for how good answers are; more is better."""

    def figure(self, name: str, logits: Tensor, targets: Tensor) -> float:
        """A figure that early stopping may watch; more is better.

        Args:
            name: `[optimiser] metric`; every task has its `score`.
            logits: FP32 [B, K].
            targets: Rows of `targets`.

        Raises:
            RecipeError: when the task has no figure of that name.
        """
        if name != "score":
            raise RecipeError(
                f'optimiser.metric: {name!r} is no figure of this task; use "loss" or "score"'
            )
        return self.score(logits, targets)


class SingleLabel(Objective):
    """Classification: one label is right. Cross-entropy; its score is accuracy, 0 to 1."""

    def __init__(self, recipe: Recipe, dataset: Dataset) -> None:
        self.outputs = len(dataset.labels)
        self.targets = torch.tensor(dataset.targets)
        self._training_loss = nn.CrossEntropyLoss(label_smoothing=recipe.optimiser.label_smoothing)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy with label smoothing."""
        loss: Tensor = self._training_loss(logits, targets)
        return loss

    def validation_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(logits, targets)

    def answers(self, logits: Tensor) -> Tensor:
        """Probabilities."""
        return logits.softmax(-1)

    def score(self, logits: Tensor, targets: Tensor) -> float:
        """Accuracy."""
        return float((logits.argmax(-1) == targets).float().mean())

    def figure(self, name: str, logits: Tensor, targets: Tensor) -> float:
        """Accuracy, which is the score, or macro F1.

        Args:
            name: `score`, `accuracy` or `macro_f1`.
            logits: FP32 [B, K].
            targets: INT64 [B].
        """
        if name == "macro_f1":
            return macro_f1(self.answers(logits).numpy(), targets.numpy())
        return super().figure("score" if name == "accuracy" else name, logits, targets)


def make_objective(recipe: Recipe, dataset: Dataset) -> Objective:
    """The objective of a recipe's task."""
    return SingleLabel(recipe, dataset)
