"""Early fusion by concatenation."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from tritium_builders.models.fusion.base import PooledFusion, perceptron


class ConcatFusion(PooledFusion):
    """Projected features side by side, then a small perceptron.

    Args:
        text_features: D of the text encoder.
        image_features: D of the image encoder.
        labels: Number of labels, K.
        width: Width of each projected modality.
        hidden: Width of the perceptron's hidden layer.
        dropout: Dropout on projections and hidden layer.
        modality_dropout: Probability that an item trains with one modality absent.

    Source: Baltrusaitis et al. 2019, "Multimodal Machine Learning: A Survey and Taxonomy",
    section 6 (early fusion).
    """

    kind: ClassVar[str] = "concat"

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
        self.classifier = perceptron(2 * width, hidden, labels, dropout)

    def _classify(self, text: Tensor, image: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.cat([text, image], dim=-1))
        return logits
