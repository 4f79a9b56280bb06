"""Fusion heads: features of one or both modalities -> logits.

Every head answers with a modality absent. To learn that, whole modalities are dropped at random
during training: Neverova et al. 2016, "ModDrop: adaptive multi-modal gesture recognition".
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from tritium_builders.models.known import KnownModule


class FusionHead(KnownModule):
    """What all heads share: a config of plain numbers and modality dropout.

    Args:
        modality_dropout: Probability, for each training item, that one modality is dropped;
            text and image are equally likely and never go together.
        **sizes: The other arguments of the head's constructor.
    """

    def __init__(self, *, modality_dropout: float, **sizes: float) -> None:
        super().__init__()
        if not 0 <= modality_dropout <= 1:
            raise ValueError(f"modality_dropout must be between 0 and 1, not {modality_dropout}")
        self.modality_dropout = modality_dropout
        self._config: dict[str, Any] = {**sizes, "modality_dropout": modality_dropout}

    def config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return dict(self._config)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make the head with weights that are still to be loaded."""
        return cls(**config).eval()

    def _drop(self, batch: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Choose which items lose their text and which their image, BOOL [batch] each."""
        if not self.training or self.modality_dropout == 0:
            return None
        chance = torch.rand(batch, device=device)
        half = self.modality_dropout / 2
        return chance < half, (chance >= half) & (chance < 2 * half)


class ConcatFusion(FusionHead):
    """Early fusion: projected features side by side, then a small perceptron.

    Each modality is normalised and projected to the same width; an absent one is a learned
    vector of that width.

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
        self.text_projection = _projection(text_features, width, dropout)
        self.image_projection = _projection(image_features, width, dropout)
        self.absent_text = nn.Parameter(torch.zeros(width))
        self.absent_image = nn.Parameter(torch.zeros(width))
        self.classifier = _perceptron(2 * width, hidden, labels, dropout)

    def forward(self, text: Tensor | None, image: Tensor | None) -> Tensor:
        """Classify.

        Args:
            text: FP32 [B, text_features], or None when absent.
            image: FP32 [B, image_features], or None when absent (never both).

        Returns:
            Logits, FP32 [B, K].
        """
        batch = _present(text, image).shape[0]
        text_part = self.absent_text.expand(batch, -1)
        image_part = self.absent_image.expand(batch, -1)
        drop = self._drop(batch, text_part.device) if text is not None is not image else None
        if text is not None:
            text_part = _replace(drop and drop[0], self.text_projection(text), text_part)
        if image is not None:
            image_part = _replace(drop and drop[1], self.image_projection(image), image_part)
        logits: Tensor = self.classifier(torch.cat([text_part, image_part], dim=-1))
        return logits


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
        self.classifier = _perceptron(2 * width, hidden, labels, dropout)

    def forward(self, text: Tensor, image: Tensor, text_padding: Tensor | None = None) -> Tensor:
        """Classify FP32 [B, T, width] and [B, P, width]; `text_padding` BOOL [B, T]."""
        seen, _ = self.text_to_image(text, image, image, need_weights=False)
        read, _ = self.image_to_text(
            image, text, text, key_padding_mask=text_padding, need_weights=False
        )
        text_vector = _average(self.text_norm(text + seen), text_padding)
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
        self.text_projection = _projection(text_features, tokens * width, dropout)
        self.image_projection = _projection(image_features, tokens * width, dropout)
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
        batch = _present(text, image).shape[0]
        text_tokens = self.absent_text.expand(batch, -1, -1)
        image_tokens = self.absent_image.expand(batch, -1, -1)
        drop = self._drop(batch, text_tokens.device) if text is not None is not image else None
        if text is not None:
            own = self.text_projection(text).unflatten(-1, (self.tokens, self.width))
            text_tokens = _replace(drop and drop[0], own, text_tokens)
        if image is not None:
            own = self.image_projection(image).unflatten(-1, (self.tokens, self.width))
            image_tokens = _replace(drop and drop[1], own, image_tokens)
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
        self.text_projection = _projection(text_features, width, dropout)
        self.image_projection = _projection(image_features, width, dropout)
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
        batch = _present(text, image).shape[0]
        text_tokens = self.absent_text.expand(batch, -1, -1)
        image_tokens = self.absent_image.expand(batch, -1, -1)
        padding = None
        drop = self._drop(batch, text_tokens.device) if text is not None is not image else None
        if text is not None:
            own = self.text_projection(text)
            padding = None if text_mask is None else text_mask == 0
            text_tokens = _replace(drop and drop[0], own, text_tokens)
        if image is not None:
            own = self.image_projection(image)
            image_tokens = _replace(drop and drop[1], own, image_tokens)
        logits: Tensor = self.attention(text_tokens, image_tokens, padding)
        return logits


class SingleModalityHead(FusionHead):
    """A perceptron over one modality's pooled features: what fusion is compared with.

    Args:
        text_features: D of the text encoder, or 0 for a head that reads the image.
        image_features: D of the image encoder, or 0 for a head that reads the text.
        labels: Number of labels, K.
        width: Width of the projected features.
        hidden: Width of the hidden layer.
        dropout: Dropout on projection and hidden layer.
    """

    kind: ClassVar[str] = "single_modality"

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
        if (text_features > 0) == (image_features > 0):
            raise ValueError("exactly one of text_features and image_features must be positive")
        self.projection = _projection(text_features + image_features, width, dropout)
        self.classifier = _perceptron(width, hidden, labels, dropout)

    def forward(self, text: Tensor | None, image: Tensor | None) -> Tensor:
        """Classify by the one modality that this head reads; the other is not looked at.

        Args:
            text: FP32 [B, text_features].
            image: FP32 [B, image_features].

        Returns:
            Logits, FP32 [B, K].
        """
        features = text if self._config["text_features"] else image
        if features is None:
            raise ValueError("the modality that this head reads is absent")
        logits: Tensor = self.classifier(self.projection(features))
        return logits


def _projection(features: int, width: int, dropout: float) -> nn.Sequential:
    # The norm puts modalities whose features differ in scale by orders on one footing.
    return nn.Sequential(
        nn.LayerNorm(features), nn.Linear(features, width), nn.GELU(), nn.Dropout(dropout)
    )


def _perceptron(features: int, hidden: int, labels: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(features, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, labels)
    )


def _present(text: Tensor | None, image: Tensor | None) -> Tensor:
    features = text if text is not None else image
    if features is None:
        raise ValueError("text and image are both absent; give at least one")
    return features


def _replace(drop: Tensor | None, own: Tensor, absent: Tensor) -> Tensor:
    if drop is None:
        return own
    return torch.where(drop.view(-1, *[1] * (own.ndim - 1)), absent, own)


def _average(tokens: Tensor, padding: Tensor | None) -> Tensor:
    if padding is None:
        return tokens.mean(1)
    weights = (~padding).unsqueeze(-1).to(tokens.dtype)
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)
