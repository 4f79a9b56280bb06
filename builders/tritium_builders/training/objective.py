"""What training minimises, and how its answers are judged: one objective for each task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from tritium_builders.data import Dataset
from tritium_builders.errors import RecipeError
from tritium_builders.models import FusionHead
from tritium_builders.models.fusion.base import BOTH, IMAGE, TEXT, Given
from tritium_builders.training.features import Features
from tritium_builders.training.imbalance import Balance
from tritium_builders.training.metrics import macro_f1
from tritium_builders.training.recipe import Recipe

Values = npt.NDArray[Any]
HeadKind = Literal["fusion", "text", "image"]
"""The recipe's fusion head, or a model of one modality for comparison."""
HEAD_KINDS: tuple[HeadKind, ...] = get_args(HeadKind)


class Objective(ABC):
    """What the logits of a head are trained towards.

    Args:
        recipe: The recipe.
        dataset: What is trained on.
    """

    outputs: int
    """How many logits an item has, K."""
    targets: Tensor
    """What is right for each item of the data set, [N], [N, K], or of words [N, W]."""
    measure: str = "accuracy"
    """What `score` is called."""
    given: tuple[Given, ...] = (BOTH, TEXT, IMAGE)
    """What a fusion head answers with; the first is what its score is of."""
    kinds: tuple[HeadKind, ...] = HEAD_KINDS
    """Which heads are compared."""

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

    def figure(self, name: str, logits: Tensor, targets: Tensor) -> float:
        """A figure that early stopping may watch; more is better.

        Args:
            name: `[optimiser] metric`: `score`, or what the task calls it.
            logits: FP32 [B, K].
            targets: Rows of `targets`.

        Raises:
            RecipeError: when the task has no figure of that name.
        """
        if name not in ("score", self.measure):
            raise RecipeError(
                f'optimiser.metric: {name!r} is no figure of this task; use "loss" or "score"'
            )
        return self.score(logits, targets)

    @property
    def units(self) -> tuple[float, ...]:
        """Of a regression: the spread of each score on the training side."""
        return ()

    def thresholds(self, answers: Values, targets: Values) -> tuple[float, ...]:  # noqa: ARG002
        """Of a multi-label model: from which probability on each label holds.

        Args:
            answers: FP32 [N, K] of the validation side.
            targets: Their rows of `targets`.
        """
        return ()

    def finish(self, head: FusionHead) -> nn.Module:
        """What goes into the bundle, of a head that was trained."""
        return head

    def figures(
        self,
        answers: Mapping[str, Values],  # noqa: ARG002
        targets: Values,  # noqa: ARG002
        thresholds: tuple[float, ...] = (),  # noqa: ARG002
    ) -> dict[str, float]:
        """What a report says of the held-out items, with all modalities.

        Args:
            answers: By `modalities_key`.
            targets: Their rows of `targets`.
            thresholds: From `thresholds`.
        """
        return {}


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

    def figure(self, name: str, logits: Tensor, targets: Tensor) -> float:
        """Accuracy, which is the score, or macro F1.

        Args:
            name: `score`, `accuracy` or `macro_f1`.
            logits: FP32 [B, K].
            targets: INT64 [B].
        """
        if name == "macro_f1":
            return macro_f1(self.answers(logits).numpy(), targets.numpy())
        return super().figure(name, logits, targets)


def make_objective(recipe: Recipe, dataset: Dataset, features: Features) -> Objective:
    """The objective of a recipe's task.

    Args:
        recipe: The recipe.
        dataset: What is trained on.
        features: Of the same; say where the words of texts are that are tagged.
    """
    from tritium_builders.training.embedding import Embedding
    from tritium_builders.training.multilabel import MultiLabel
    from tritium_builders.training.regression import Regression
    from tritium_builders.training.tagging import Tagging

    match recipe.task:
        case "classification":
            return SingleLabel(recipe, dataset)
        case "multilabel":
            return MultiLabel(recipe, dataset)
        case "regression":
            return Regression(recipe, dataset)
        case "tagging":
            return Tagging(recipe, dataset, features)
        case "embedding":
            return Embedding(recipe, dataset)
