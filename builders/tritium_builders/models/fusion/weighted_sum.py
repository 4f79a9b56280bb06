"""Early fusion by a weighted sum."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tritium_builders.models.fusion.base import PooledFusion, perceptron


class WeightedSumFusion(PooledFusion):
    """Projected features added with one learned weight for each modality, then a perceptron.

    The weights are a softmax, so they are positive and sum to 1; they start equal.

    Args:
        text_features: D of the text encoder.
        image_features: D of the image encoder.
        labels: Number of labels, K.
        width: Width of each projected modality, and of their sum.
        hidden: Width of the perceptron's hidden layer.
        dropout: Dropout on projections and hidden layer.
        modality_dropout: Probability that an item trains with one modality absent.

    Source: Kiela et al. 2018, "Efficient Large-Scale Multi-Modal Classification" (additive
    fusion); weights as in Peters et al. 2018, "Deep Contextualized Word Representations",
    equation 1.
    """

    kind: ClassVar[str] = "weighted_sum"

    def __init__(
        self,
        *,
        text_features: int,
        image_features: int,
        labels: int,
        width: int = 256,
        hidden: int = 256,
        dropout: float = 0.3,
        modality_dropout: float = 0.3,
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
        self.weights = nn.Parameter(torch.zeros(2))
        self.classifier = perceptron(width, hidden, labels, dropout)

    def _classify(self, text: Tensor, image: Tensor) -> Tensor:
        weights = self.weights.softmax(0)
        logits: Tensor = self.classifier(weights[0] * text + weights[1] * image)
        return logits
