"""Fusion by one transformer over the tokens and patches of both modalities."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tritium_builders.models.fusion.base import (
    FusionHead,
    perceptron,
    present,
    projection,
    replace,
)

HIDDEN_SCORE = -1e4
"""Of a token that is not looked at: its softmax is exactly 0, and the number fits into fp16."""


class CrossModalTransformerFusion(FusionHead):
    """One row of an answer token, the text's tokens and the image's patches, each seeing all.

    For encoders with pooling "none". Every token is told by a learned vector which modality it is
    from. An absent modality is one learned token.

    Args:
        text_features: D of the text encoder's tokens.
        image_features: D of the image encoder's patches.
        labels: Number of labels, K.
        width: Width of a projected token; a multiple of `heads`.
        heads: Attention heads.
        layers: Transformer layers, at least 1.
        hidden: Width of the layers' and the classifier's hidden layers.
        dropout: Dropout on tokens, attention and hidden layers.
        modality_dropout: Probability that an item trains with one modality absent.

    Source: Li et al. 2019, "VisualBERT", section 3.2; Kim et al. 2021, "ViLT", section 3.1
    (modality-type embeddings, layers that normalise first).
    """

    kind: ClassVar[str] = "cross_modal_transformer"
    sequences: ClassVar[bool] = True
    settings: ClassVar[tuple[str, ...]] = ("width", "hidden", "heads", "layers")

    def __init__(
        self,
        *,
        text_features: int,
        image_features: int,
        labels: int,
        width: int = 128,
        heads: int = 4,
        layers: int = 2,
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
            layers=layers,
            hidden=hidden,
            dropout=dropout,
            modality_dropout=modality_dropout,
        )
        self.text_projection = projection(text_features, width, dropout)
        self.image_projection = projection(image_features, width, dropout)
        self.absent_text = nn.Parameter(torch.randn(1, width) * 0.02)
        self.absent_image = nn.Parameter(torch.randn(1, width) * 0.02)
        self.modalities = nn.Parameter(torch.randn(2, width) * 0.02)
        self.answer = nn.Parameter(torch.randn(1, width) * 0.02)
        self.layers = nn.ModuleList(_Layer(width, heads, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.classifier = perceptron(width, hidden, labels, dropout)

    def forward(
        self, text: Tensor | None, image: Tensor | None, text_mask: Tensor | None = None
    ) -> Tensor:
        """Classify.

        Args:
            text: FP32 [B, L, text_features], or None when absent.
            image: FP32 [B, P, image_features], or None when absent.
            text_mask: INT64 [B, L], 1 for a token, 0 for padding; None means no padding.

        Returns:
            Logits, FP32 [B, K].

        Raises:
            ValueError: when text and image are both absent.
        """
        given = present(text, image)
        batch, device = given.shape[0], given.device
        text_tokens = self.absent_text.expand(batch, -1, -1)
        image_tokens = self.absent_image.expand(batch, -1, -1)
        text_hidden = image_hidden = None
        drop = self._drop(batch, device) if text is not None is not image else None
        if text is not None:
            padding = None if text_mask is None else text_mask == 0
            text_hidden = _all_but_first(drop and drop[0], text.shape[1], padding)
            text_tokens = replace(drop and drop[0], self.text_projection(text), text_tokens)
        if image is not None:
            image_hidden = _all_but_first(drop and drop[1], image.shape[1], None)
            image_tokens = replace(drop and drop[1], self.image_projection(image), image_tokens)
        parts = [
            self.answer.expand(batch, -1, -1),
            text_tokens + self.modalities[0],
            image_tokens + self.modalities[1],
        ]
        tokens = torch.cat(parts, dim=1)
        hidden = _joined(parts, (None, text_hidden, image_hidden))
        for layer in self.layers:
            tokens = layer(tokens, hidden)
        logits: Tensor = self.classifier(self.norm(tokens[:, 0]))
        return logits


class _Layer(nn.Module):
    """Attention and a perceptron, each over normalised tokens and added to them.

    Written as matrix products and a softmax: PyTorch's own layer takes other ways in evaluation,
    which cannot be exported.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3; the norm comes first as in
    Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture".
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.perceptron = perceptron(width, hidden, width, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, hidden: Tensor | None) -> Tensor:
        """FP32 [B, N, width] -> the same; `hidden` BOOL [B, N] says whom nobody looks at."""
        mixed = self.queries_keys_values(self.attention_norm(tokens))
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in mixed.chunk(3, dim=-1)
        )
        scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
        if hidden is not None:
            scores = scores.masked_fill(hidden[:, None, None, :], HIDDEN_SCORE)
        seen = (self.dropout(scores.softmax(-1)) @ values).transpose(1, 2).flatten(2)
        tokens = tokens + self.dropout(self.attention_out(seen))
        answer: Tensor = tokens + self.dropout(self.perceptron(self.norm(tokens)))
        return answer


def _all_but_first(drop: Tensor | None, length: int, padding: Tensor | None) -> Tensor | None:
    """Hide all copies but one of the absent token where a modality was dropped.

    Otherwise a dropped text would weigh as many tokens as it had, an absent one weighs one.
    """
    if drop is None:
        return padding
    later = torch.arange(length, device=drop.device) > 0
    own = torch.zeros_like(later) if padding is None else padding
    return torch.where(drop[:, None], later, own)


def _joined(parts: list[Tensor], hidden: tuple[Tensor | None, ...]) -> Tensor | None:
    """Who is hidden in a row of several parts, BOOL [B, N]; None where nobody is."""
    if all(one is None for one in hidden):
        return None
    return torch.cat(
        [
            torch.zeros(part.shape[:2], dtype=torch.bool, device=part.device)
            if own is None
            else own
            for part, own in zip(parts, hidden, strict=True)
        ],
        dim=1,
    )
