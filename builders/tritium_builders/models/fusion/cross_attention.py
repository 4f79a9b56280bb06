"""Fusion by cross-attention, over tokens made from pooled features or over the encoders' own."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tritium_builders.models.fusion.base import (
    FusionHead,
    average,
    perceptron,
    present,
    projection,
    replace,
)


class _CrossAttention(nn.Module):
    """Text tokens look at image tokens and the reverse; both are averaged and classified.

    Source: Lu et al. 2019, "ViLBERT", section 3 (co-attentional transformer layers).
    """

    def __init__(self, *, width: int, heads: int, labels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.text_to_image = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.image_to_text = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.text_norm = nn.LayerNorm(width)
        self.image_norm = nn.LayerNorm(width)
        self.classifier = perceptron(2 * width, hidden, labels, dropout)

    def forward(self, text: Tensor, image: Tensor, text_padding: Tensor | None = None) -> Tensor:
        """Classify FP32 [B, T, width] and [B, P, width]; `text_padding` BOOL [B, T]."""
        seen, _ = self.text_to_image(text, image, image, need_weights=False)
        read, _ = self.image_to_text(
            image, text, text, key_padding_mask=text_padding, need_weights=False
        )
        text_vector = average(self.text_norm(text + seen), text_padding)
        image_vector = self.image_norm(image + read).mean(1)
        logits: Tensor = self.classifier(torch.cat([text_vector, image_vector], dim=-1))
        return logits


class CrossAttentionFusion(FusionHead):
    """Cross-attention over modality tokens made from pooled features.

    Each modality's features are projected to a few tokens; an absent modality is as many
    learned tokens.

    Args:
        text_features: D of the text encoder.
        image_features: D of the image encoder.
        labels: Number of labels, K.
        tokens: Tokens that each modality's features become.
        width: Width of a token; a multiple of `heads`.
        heads: Attention heads.
        hidden: Width of the classifier's hidden layer.
        dropout: Dropout on tokens, attention and hidden layer.
        modality_dropout: Probability that an item trains with one modality absent.

    Source: Lu et al. 2019, "ViLBERT", section 3; Tsai et al. 2019, "Multimodal Transformer for
    Unaligned Multimodal Language Sequences", section 3.1.
    """

    kind: ClassVar[str] = "cross_attention"
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
        self.tokens = tokens
        self.width = width
        self.text_projection = projection(text_features, tokens * width, dropout)
        self.image_projection = projection(image_features, tokens * width, dropout)
        self.absent_text = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.absent_image = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.attention = _CrossAttention(
            width=width, heads=heads, labels=labels, hidden=hidden, dropout=dropout
        )

    def forward(self, text: Tensor | None, image: Tensor | None) -> Tensor:
        """Classify.

        Args:
            text: FP32 [B, text_features], or None when absent.
            image: FP32 [B, image_features], or None when absent (never both).

        Returns:
            Logits, FP32 [B, K].
        """
        batch = present(text, image).shape[0]
        text_tokens = self.absent_text.expand(batch, -1, -1)
        image_tokens = self.absent_image.expand(batch, -1, -1)
        drop = self._drop(batch, text_tokens.device) if text is not None is not image else None
        if text is not None:
            own = self.text_projection(text).unflatten(-1, (self.tokens, self.width))
            text_tokens = replace(drop and drop[0], own, text_tokens)
        if image is not None:
            own = self.image_projection(image).unflatten(-1, (self.tokens, self.width))
            image_tokens = replace(drop and drop[1], own, image_tokens)
        logits: Tensor = self.attention(text_tokens, image_tokens)
        return logits


class SequenceCrossAttentionFusion(FusionHead):
    """Cross-attention over the encoders' own tokens and patches.

    For encoders with pooling "none". An absent modality is one learned token.

    Args:
        text_features: D of the text encoder's tokens.
        image_features: D of the image encoder's patches.
        labels: Number of labels, K.
        width: Width of a projected token; a multiple of `heads`.
        heads: Attention heads.
        hidden: Width of the classifier's hidden layer.
        dropout: Dropout on tokens, attention and hidden layer.
        modality_dropout: Probability that an item trains with one modality absent.

    Source: Lu et al. 2019, "ViLBERT", section 3.
    """

    kind: ClassVar[str] = "sequence_cross_attention"
    sequences: ClassVar[bool] = True
    settings: ClassVar[tuple[str, ...]] = ("width", "hidden", "heads")

    def __init__(
        self,
        *,
        text_features: int,
        image_features: int,
        labels: int,
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
            width=width,
            heads=heads,
            hidden=hidden,
            dropout=dropout,
            modality_dropout=modality_dropout,
        )
        self.text_projection = projection(text_features, width, dropout)
        self.image_projection = projection(image_features, width, dropout)
        self.absent_text = nn.Parameter(torch.randn(1, width) * 0.02)
        self.absent_image = nn.Parameter(torch.randn(1, width) * 0.02)
        self.attention = _CrossAttention(
            width=width, heads=heads, labels=labels, hidden=hidden, dropout=dropout
        )

    def forward(
        self, text: Tensor | None, image: Tensor | None, text_mask: Tensor | None = None
    ) -> Tensor:
        """Classify.

        Args:
            text: FP32 [B, L, text_features], or None when absent.
            image: FP32 [B, P, image_features], or None when absent (never both).
            text_mask: INT64 [B, L], 1 for a token, 0 for padding; None means no padding.

        Returns:
            Logits, FP32 [B, K].
        """
        batch = present(text, image).shape[0]
        text_tokens = self.absent_text.expand(batch, -1, -1)
        image_tokens = self.absent_image.expand(batch, -1, -1)
        padding = None
        drop = self._drop(batch, text_tokens.device) if text is not None is not image else None
        if text is not None:
            own = self.text_projection(text)
            padding = None if text_mask is None else text_mask == 0
            text_tokens = replace(drop and drop[0], own, text_tokens)
        if image is not None:
            own = self.image_projection(image)
            image_tokens = replace(drop and drop[1], own, image_tokens)
        logits: Tensor = self.attention(text_tokens, image_tokens, padding)
        return logits
