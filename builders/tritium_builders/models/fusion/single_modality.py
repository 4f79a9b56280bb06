"""One modality alone: what fusion is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from tritium_builders.models.fusion.base import (
    IMAGE,
    TEXT,
    FusionHead,
    Given,
    average,
    perceptron,
    projection,
)


class SingleModalityHead(FusionHead):
    """A perceptron over one modality's features; of a sequence, over their mean.

    Args:
        text_features: D of the text encoder, or 0 for a head that reads the image.
        image_features: D of the image encoder, or 0 for a head that reads the text.
        labels: Number of labels, K.
        width: Width of the projected features.
        hidden: Width of the hidden layer.
        dropout: Dropout on projection and hidden layer.
        modality_dropout: Has no effect: there is nothing to drop.

    Raises:
        ValueError: unless exactly one of the two sizes is positive.
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
        self.projection = projection(text_features + image_features, width, dropout)
        self.classifier = perceptron(width, hidden, labels, dropout)

    def forward(
        self, text: Tensor | None, image: Tensor | None, text_mask: Tensor | None = None
    ) -> Tensor:
        """Classify by the one modality that this head reads; the other is not looked at.

        Args:
            text: FP32 [B, text_features], or [B, L, text_features].
            image: FP32 [B, image_features], or [B, P, image_features].
            text_mask: INT64 [B, L], 1 for a token, 0 for padding; None means no padding.

        Returns:
            Logits, FP32 [B, K].

        Raises:
            ValueError: when the modality that it reads is absent.
        """
        features = text if self._config["text_features"] else image
        if features is None:
            raise ValueError("the modality that this head reads is absent")
        if features.ndim == 3:
            padding = None if features is image or text_mask is None else text_mask == 0
            features = average(features, padding)
        logits: Tensor = self.classifier(self.projection(features))
        return logits

    def stages(self, absent_loss: float) -> tuple[Mapping[Given, float], ...]:  # noqa: ARG002
        """The loss with the one modality that it reads."""
        return ({TEXT if self._config["text_features"] else IMAGE: 1.0},)
