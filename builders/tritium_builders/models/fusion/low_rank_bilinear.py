"""Bilinear fusion of low rank."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tritium_builders.models.fusion.base import PooledFusion


class LowRankBilinearFusion(PooledFusion):
    """Every feature of one modality times every feature of the other, in few parameters.

    A bilinear map from two vectors of width w to h features has h matrices of (w + 1)^2 numbers,
    the 1 for a constant that keeps each modality's own terms. Here each matrix is a sum of `rank`
    outer products, 2 * rank * (w + 1) numbers, and is never written out:

        fused = sum over r of  weight_r * (T_r [text, 1]) * (I_r [image, 1])

    Args:
        text_features: D of the text encoder.
        image_features: D of the image encoder.
        labels: Number of labels, K.
        width: Width of each projected modality.
        hidden: Number of bilinear features.
        rank: Rank of each feature's matrix.
        dropout: Dropout on projections and bilinear features.
        modality_dropout: Probability that an item trains with one modality absent.

    Source: Liu et al. 2018, "Efficient Low-rank Multimodal Fusion with Modality-Specific
    Factors", section 3.2; Kim et al. 2017, "Hadamard Product for Low-rank Bilinear Pooling".
    """

    kind: ClassVar[str] = "low_rank_bilinear"
    settings: ClassVar[tuple[str, ...]] = ("width", "hidden", "rank")

    def __init__(
        self,
        *,
        text_features: int,
        image_features: int,
        labels: int,
        width: int = 256,
        hidden: int = 256,
        rank: int = 4,
        dropout: float = 0.3,
        modality_dropout: float = 0.3,
    ) -> None:
        super().__init__(
            text_features=text_features,
            image_features=image_features,
            labels=labels,
            width=width,
            hidden=hidden,
            rank=rank,
            dropout=dropout,
            modality_dropout=modality_dropout,
        )
        self.factors = (rank, hidden)
        # A linear layer's bias is what the appended 1 is multiplied with.
        self.text_factors = nn.Linear(width, rank * hidden)
        self.image_factors = nn.Linear(width, rank * hidden)
        self.rank_weights = nn.Parameter(torch.ones(rank))
        # Products of small numbers are smaller still; without the norm training starts slowly.
        self.norm = nn.LayerNorm(hidden)
        # Linear, as in both papers. A hidden layer more was worse on the demo data's validation.
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden, labels))

    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        """The bilinear features.

        Args:
            text: FP32 [B, width].
            image: FP32 [B, width].

        Returns:
            FP32 [B, hidden].
        """
        text_values = self.text_factors(text).unflatten(-1, self.factors)
        image_values = self.image_factors(image).unflatten(-1, self.factors)
        fused: Tensor = (self.rank_weights.view(-1, 1) * text_values * image_values).sum(-2)
        return fused

    def _classify(self, text: Tensor, image: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.norm(self.fuse(text, image)))
        return logits
