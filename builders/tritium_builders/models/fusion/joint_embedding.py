"""Texts and pictures in one space."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from tritium_builders.models.fusion.base import FusionHead

FIRST_TEMPERATURE = 0.07
"""CLIP's."""


class JointEmbedding(FusionHead):
    """A projection for each modality into a space where a text lies close to its picture.

    Args:
        text_features: D of the text encoder.
        image_features: D of the image encoder.
        labels: Size of the space.
        hidden: Width of each projection's hidden layer.
        dropout: Dropout on the hidden layers.
        modality_dropout: Has no effect: every item trains with both modalities.

    Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
    Supervision" (CLIP), section 2.3: both vectors normalised, a learned temperature.
    """

    kind: ClassVar[str] = "joint_embedding"
    settings: ClassVar[tuple[str, ...]] = ("hidden",)

    def __init__(
        self,
        *,
        text_features: int,
        image_features: int,
        labels: int,
        hidden: int = 256,
        dropout: float = 0.3,
        modality_dropout: float = 0.0,
    ) -> None:
        super().__init__(
            text_features=text_features,
            image_features=image_features,
            labels=labels,
            hidden=hidden,
            dropout=dropout,
            modality_dropout=modality_dropout,
        )
        self.text_projection, self.image_projection = (
            nn.Sequential(
                nn.LayerNorm(features),
                nn.Linear(features, hidden),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(hidden, labels),
            )
            for features in (text_features, image_features)
        )
        self.log_scale = nn.Parameter(torch.tensor(-math.log(FIRST_TEMPERATURE)))
        """Logarithm of what similarities are multiplied with in training: 1 / temperature."""

    def forward(self, text: Tensor | None, image: Tensor | None) -> Tensor:
        """Embed one modality; or, to train, both.

        Args:
            text: FP32 [B, text_features], or None.
            image: FP32 [B, image_features], or None.

        Returns:
            FP32 [B, D] of one modality, its length any; of both the two side by side with
            `log_scale` after them, [B, 2 D + 1].

        Raises:
            ValueError: when both are absent.
        """
        parts = [] if text is None else [self.text_projection(text)]
        parts += [] if image is None else [self.image_projection(image)]
        if not parts:
            raise ValueError("text and image are both absent; give at least one")
        if len(parts) == 1:
            vector: Tensor = parts[0]
            return vector
        return torch.cat([*parts, self.log_scale.expand(len(parts[0]), 1)], dim=-1)
