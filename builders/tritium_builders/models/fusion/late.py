"""Late fusion: two models, one answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from tritium_builders.models.fusion.base import (
    IMAGE,
    TEXT,
    FusionHead,
    Given,
    perceptron,
    present,
    projection,
)

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
            logits = _pool(self.text_branch(text), self.image_branch(image), self.text_weight)
        return logits

    def stages(self, absent_loss: float) -> tuple[Mapping[Given, float], ...]:  # noqa: ARG002
        """One classifier after the other, each stopped when its own loss no longer falls."""
        return ({TEXT: 1.0}, {IMAGE: 1.0})

    def tune(self, answers: Mapping[Given, Tensor], targets: Tensor) -> None:
        """Choose the text's weight with the lowest cross-entropy, of equals the one nearest 1/2.

        Args:
            answers: Logits FP32 [N, K] on the validation side, by the modalities that were given.
            targets: INT64 [N], its labels.
        """
        text, image = answers[TEXT].double(), answers[IMAGE].double()
        losses = {}
        for weight in (torch.arange(STEPS + 1) / STEPS).double():
            loss = nn.functional.nll_loss(_pool(text, image, weight), targets)
            losses[float(weight)] = round(float(loss), 9)  # equal but for rounding is equal
        best = min(losses, key=lambda weight: (losses[weight], abs(weight - 0.5)))
        self.text_weight.fill_(best)


def _pool(text: Tensor, image: Tensor, text_weight: Tensor) -> Tensor:
    """Logarithms of the weighted mean of two logits' probabilities, FP32 [B, K]."""
    mean = text_weight * text.softmax(-1) + (1 - text_weight) * image.softmax(-1)
    return mean.clamp(min=1e-12).log()  # a probability of 0 has no logarithm
