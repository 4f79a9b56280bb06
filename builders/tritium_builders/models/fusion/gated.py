"""Fusion by a gated multimodal unit."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tritium_builders.models.fusion.base import PooledFusion, perceptron


class GatedFusion(PooledFusion):
    """For each item and each feature, a gate says how much comes from the text.

        z = sigmoid(G [text, image]);  fused = z * tanh(T text) + (1 - z) * tanh(I image)

    Args:
        text_features: D of the text encoder.
        image_features: D of the image encoder.
        labels: Number of labels, K.
        width: Width of each projected modality, and of the fused features.
        hidden: Width of the perceptron's hidden layer.
        dropout: Dropout on projections and hidden layer.
        modality_dropout: Probability that an item trains with one modality absent.

    Source: Arevalo et al. 2017, "Gated Multimodal Units for Information Fusion", section 3.1.
    """

    kind: ClassVar[str] = "gated"

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
        self.text_value = nn.Linear(width, width)
        self.image_value = nn.Linear(width, width)
        self.gate = nn.Linear(2 * width, width)
        self.classifier = perceptron(width, hidden, labels, dropout)

    def _classify(self, text: Tensor, image: Tensor) -> Tensor:
        gate = self.gate(torch.cat([text, image], dim=-1)).sigmoid()
        fused = gate * self.text_value(text).tanh() + (1 - gate) * self.image_value(image).tanh()
        logits: Tensor = self.classifier(fused)
        return logits
