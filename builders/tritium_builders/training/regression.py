"""Regression: one or more numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from tritium_builders.data import Dataset
from tritium_builders.errors import RecipeError
from tritium_builders.models import FusionHead, ScaledHead
from tritium_builders.training.objective import Objective

if TYPE_CHECKING:
    from tritium_builders.training.recipe import Recipe

Values = npt.NDArray[np.float32]


class Regression(Objective):
    """Mean squared error of standardised scores; its score is R2, at most 1.

    Scores are standardised with the training side's mean and spread; what is shipped answers in
    their own unit.

    Args:
        recipe: The recipe.
        dataset: Items whose targets are scores.
    """

    measure = "R2"

    def __init__(self, recipe: Recipe, dataset: Dataset) -> None:
        del recipe
        self.outputs = len(dataset.labels)
        self.targets = torch.tensor([item.target for item in dataset.items], dtype=torch.float32)
        self._names = dataset.labels
        self.balance(torch.arange(len(self.targets)))

    def balance(self, train: Tensor) -> None:
        """Take mean and spread of the training side.

        Args:
            train: INT64 [N], indices into the data set.

        Raises:
            RecipeError: when a score is the same for all of them.
        """
        own = self.targets[train].double()
        self._centres, self._units = own.mean(0).float(), own.std(0, unbiased=False).float()
        for name, unit in zip(self._names, self._units.tolist(), strict=True):
            if unit == 0:
                raise RecipeError(
                    f"data.values: {name!r} is the same for every item that is trained on; there "
                    "is nothing to predict"
                )

    @property
    def units(self) -> tuple[float, ...]:
        """The spread of each score on the training side: its standard deviation."""
        return tuple(self._units.tolist())

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error, in squares of the scores' spreads."""
        return functional.mse_loss(logits, self._standardise(targets))

    def validation_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The same."""
        return self.loss(logits, targets)

    def answers(self, logits: Tensor) -> Tensor:
        """Scores in their own units."""
        return logits * self._units + self._centres

    def score(self, logits: Tensor, targets: Tensor) -> float:
        """R2, mean of all scores: 1 is perfect, 0 is no better than the mean."""
        return _r2(self.answers(logits).numpy(), targets.numpy())

    def finish(self, head: FusionHead) -> nn.Module:
        """Put the unit and the centre of each score on a head."""
        return ScaledHead(head, self._centres.tolist(), self._units.tolist()).eval()

    def figures(
        self, answers: Mapping[str, Values], targets: Values, thresholds: tuple[float, ...] = ()
    ) -> dict[str, float]:
        """Figures of the held-out items, with all modalities.

        Args:
            answers: FP32 [N, K] by `modalities_key`.
            targets: FP32 [N, K].
            thresholds: Has no effect.
        """
        del thresholds
        values = answers["text,image"]
        found = {"R2": _r2(values, targets)}
        for index, name in enumerate(self._names):
            errors = values[:, index] - targets[:, index]
            found[f"mean absolute error of {name}"] = float(np.abs(errors).mean())
            found[f"root mean squared error of {name}"] = float(np.sqrt((errors**2).mean()))
        return found

    def _standardise(self, targets: Tensor) -> Tensor:
        return (targets - self._centres) / self._units


def _r2(values: Values, targets: Values) -> float:
    """Coefficient of determination; a score that is the same for all items counts as 0."""
    left = ((values - targets) ** 2).sum(0)
    total = ((targets - targets.mean(0)) ** 2).sum(0)
    own = np.where(total > 0, 1 - left / np.where(total > 0, total, 1), 0.0)
    return float(own.mean())
