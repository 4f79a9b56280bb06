"""Late fusion: two models, one answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tritium_builders.models.fusion.base import (
    IMAGE,
    TEXT,
    FusionHead,
    Given,
    Loss,
    perceptron,
    present,
    projection,
)
from tritium_client.contract import Task

STEPS = 100
"""The text's weight is one of 0, 1/100, ..., 1."""


class LateFusion(FusionHead):
    """A classifier for each modality; their probabilities are averaged with a weight.

    Each classifier is trained alone, as if there were no other, so with a modality absent this is
    exactly a single-modality head. The weight is chosen afterwards on the validation side.

    Args:
        text_features: D of the text encoder.
        image_features: D of the image encoder.
        labels: Number of labels, K.
        width: Width of each projected modality.
        hidden: Width of each classifier's hidden layer.
        dropout: Dropout on projections and hidden layers.
        modality_dropout: Kept for the config's sake: no item is ever trained with both.
        task: What the logits are for: `classification`, `multilabel` or `regression`.

    Source: Snoek et al. 2005, "Early versus Late Fusion in Semantic Video Analysis"; the weighted
    mean of probabilities is the linear opinion pool of Genest and Zidek 1986, "Combining
    Probability Distributions".
    """

    kind: ClassVar[str] = "late"
    text_weight: Tensor

    def __init__(
        self,
        *,
        text_features: int,
        image_features: int,
        labels: int,
        width: int = 256,
        hidden: int = 256,
        dropout: float = 0.3,
        modality_dropout: float = 0.0,
        task: Task = "classification",
    ) -> None:
        super().__init__(
            text_features=text_features,
            image_features=image_features,
            labels=labels,
            width=width,
            hidden=hidden,
            dropout=dropout,
            modality_dropout=modality_dropout,
        )
        self._pool = _POOLS[task]
        if task != "classification":  # bundles that were made before there was a choice lack it
            self._config["task"] = task
        self.text_branch, self.image_branch = (
            nn.Sequential(
                projection(features, width, dropout), perceptron(width, hidden, labels, dropout)
            )
            for features in (text_features, image_features)
        )
        self.register_buffer("text_weight", torch.tensor(0.5))

    def forward(self, text: Tensor | None, image: Tensor | None) -> Tensor:
        """Classify.

        Args:
            text: FP32 [B, text_features], or None when absent.
            image: FP32 [B, image_features], or None when absent.

        Returns:
            Logits, FP32 [B, K]; with both modalities, logarithms of probabilities.

        Raises:
            ValueError: when both are absent.
        """
        present(text, image)
        if image is None:
            logits: Tensor = self.text_branch(text)
        elif text is None:
            logits = self.image_branch(image)
        else:
            logits = self._pool(self.text_branch(text), self.image_branch(image), self.text_weight)
        return logits

    def stages(self, absent_loss: float) -> tuple[Mapping[Given, float], ...]:  # noqa: ARG002
        """One classifier after the other, each stopped when its own loss no longer falls."""
        return ({TEXT: 1.0}, {IMAGE: 1.0})

    def tune(
        self,
        answers: Mapping[Given, Tensor],
        targets: Tensor,
        loss: Loss = functional.cross_entropy,
    ) -> None:
        """Choose the text's weight with the lowest loss, of equals the one nearest 1/2.

        Args:
            answers: Logits FP32 [N, K] on the validation side, by the modalities that were given.
            targets: What is right for them, INT64 [N] for one label.
            loss: Logits and targets -> how wrong they are.
        """
        text, image = answers[TEXT].double(), answers[IMAGE].double()
        losses = {}
        for weight in (torch.arange(STEPS + 1) / STEPS).double():
            found = loss(self._pool(text, image, weight), targets)
            losses[float(weight)] = round(float(found), 9)  # equal but for rounding is equal
        best = min(losses, key=lambda weight: (losses[weight], abs(weight - 0.5)))
        self.text_weight.fill_(best)


def _pool_classes(text: Tensor, image: Tensor, text_weight: Tensor) -> Tensor:
    """Logarithms of the weighted mean of two logits' probabilities, FP32 [B, K]."""
    mean = text_weight * text.softmax(-1) + (1 - text_weight) * image.softmax(-1)
    return mean.clamp(min=1e-12).log()  # a probability of 0 has no logarithm


def _pool_labels(text: Tensor, image: Tensor, text_weight: Tensor) -> Tensor:
    """Log-odds of the weighted mean of two logits' probabilities, FP32 [B, K]."""
    mean = text_weight * text.sigmoid() + (1 - text_weight) * image.sigmoid()
    kept = mean.clamp(1e-7, 1 - 1e-7)  # nor have 0 and 1 log-odds
    return kept.log() - (1 - kept).log()


def _pool_scores(text: Tensor, image: Tensor, text_weight: Tensor) -> Tensor:
    """The weighted mean of two scores, FP32 [B, K]."""
    return text_weight * text + (1 - text_weight) * image


_POOLS: dict[Task, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "classification": _pool_classes,
    "multilabel": _pool_labels,
    "regression": _pool_scores,
}
