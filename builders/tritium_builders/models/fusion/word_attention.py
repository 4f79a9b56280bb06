"""Tagging words with the help of a picture."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tritium_builders.models.fusion.base import FusionHead, perceptron, projection, replace


class WordAttentionFusion(FusionHead):
    """Words look at the picture; a gate decides how much of it each word takes over.

    The picture's features become a few tokens; an absent picture is as many learned tokens. For a
    text encoder with pooling "none".

    Args:
        text_features: D of the text encoder's tokens.
        image_features: D of the image encoder.
        labels: Number of tags, K.
        tokens: Tokens that the picture's features become.
        width: Width of a projected word or token; a multiple of `heads`.
        heads: Attention heads.
        hidden: Width of the classifier's hidden layer.
        dropout: Dropout on words, tokens, attention and hidden layer.
        modality_dropout: Probability that an item trains without its picture.

    Source: Yu et al. 2020, "Improving Multimodal Named Entity Recognition via Entity Span Detection
    with Unified Multimodal Transformer", section 3.3 (word-aware visual attention, visual gate).
    """

    kind: ClassVar[str] = "word_attention"
    settings: ClassVar[tuple[str, ...]] = ("width", "hidden", "heads")

    def __init__(
        self,
        *,
        text_features: int,
        image_features: int,
        labels: int,
        tokens: int = 4,
        width: int = 128,
        heads: int = 4,
        hidden: int = 256,
        dropout: float = 0.3,
        modality_dropout: float = 0.3,
    ) -> None:
        super().__init__(
            text_features=text_features,
            image_features=image_features,
            labels=labels,
            tokens=tokens,
            width=width,
            heads=heads,
            hidden=hidden,
            dropout=dropout,
            modality_dropout=modality_dropout,
        )
        self.tokens, self.width = tokens, width
        self.text_projection = projection(text_features, width, dropout)
        self.image_projection = projection(image_features, tokens * width, dropout)
        self.absent_image = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(2 * width, width)
        self.classifier = perceptron(2 * width, hidden, labels, dropout)

    def forward(self, text: Tensor | None, image: Tensor | None) -> Tensor:
        """Tag.

        Args:
            text: FP32 [B, W, text_features], each word's first token.
            image: FP32 [B, image_features], or None when absent.

        Returns:
            Logits, FP32 [B, W, K].

        Raises:
            ValueError: when the text is absent.
        """
        if text is None:
            raise ValueError("the text is absent; there are no words to tag")
        words = self.text_projection(text)
        batch = words.shape[0]
        seen = self.absent_image.expand(batch, -1, -1)
        if image is not None:
            own = self.image_projection(image).unflatten(-1, (self.tokens, self.width))
            seen = replace(self._drop_image(batch, own.device), own, seen)
        found, _ = self.attention(words, seen, seen, need_weights=False)
        found = self.norm(found)
        taken = self.gate(torch.cat([words, found], dim=-1)).sigmoid() * found
        logits: Tensor = self.classifier(torch.cat([words, taken], dim=-1))
        return logits

    def _drop_image(self, batch: int, device: torch.device) -> Tensor | None:
        """Which items train without their picture, BOOL [batch]; a text is never dropped."""
        if not self.training or self.modality_dropout == 0:
            return None
        return torch.rand(batch, device=device) < self.modality_dropout
