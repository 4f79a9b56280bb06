"""What all fusion heads share: a config, modality dropout, and what training minimises.

Every head answers with a modality absent. To learn that, whole modalities are dropped at random
during training: Neverova et al. 2016, "ModDrop: adaptive multi-modal gesture recognition".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import Self

from tritium_builders.models.known import KnownModule
from tritium_client.contract import Modality

Given = tuple[Modality, ...]
"""The modalities that a head is given."""
Loss = Callable[[Tensor, Tensor], Tensor]
BOTH: Given = ("text", "image")
TEXT: Given = ("text",)
IMAGE: Given = ("image",)


class FusionHead(KnownModule):
    """Features of one or both modalities -> logits.

    Args:
        modality_dropout: Probability, for each training item, that one modality is dropped;
            text and image are equally likely and never go together.
        **sizes: The other arguments of the head's constructor.

    Raises:
        ValueError: for a probability outside 0 to 1.
    """

    sequences: ClassVar[bool] = False
    """Whether it reads tokens and patches (pooling "none") and not pooled features."""
    settings: ClassVar[tuple[str, ...]] = ("width", "hidden")
    """Which of a recipe's settings its constructor takes, beside the two dropouts."""

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

    def stages(self, absent_loss: float) -> tuple[Mapping[Given, float], ...]:
        """What training minimises, one stage after the other.

        Args:
            absent_loss: Weight of the losses with one modality absent.

        Returns:
            For each stage: modalities that are given -> weight of the loss with them, none of
            them 0. Early stopping watches the loss of the first.
        """
        if absent_loss == 0:
            return ({BOTH: 1.0},)
        return ({BOTH: 1.0, TEXT: absent_loss, IMAGE: absent_loss},)

    def tune(
        self,
        answers: Mapping[Given, Tensor],
        targets: Tensor,
        loss: Loss = functional.cross_entropy,
    ) -> None:
        """Choose, after training, what gradients do not reach; most heads have nothing of the kind.

        Args:
            answers: Logits FP32 [N, K] on the validation side, by the modalities that were given.
            targets: What is right for them, INT64 [N] for one label.
            loss: Logits and targets -> how wrong they are.
        """

    def _drop(self, batch: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Choose which items lose their text and which their image, BOOL [batch] each."""
        if not self.training or self.modality_dropout == 0:
            return None
        chance = torch.rand(batch, device=device)
        half = self.modality_dropout / 2
        return chance < half, (chance >= half) & (chance < 2 * half)


class PooledFusion(FusionHead):
    """Heads over pooled features: each modality is normalised and projected to one width.

    An absent modality is a learned vector of that width.

    Args:
        text_features: D of the text encoder.
        image_features: D of the image encoder.
        width: Width of each projected modality.
        dropout: Dropout on the projections.
        modality_dropout: Probability that an item trains with one modality absent.
        **sizes: The other arguments of the head's constructor.
    """

    def __init__(
        self,
        *,
        text_features: int,
        image_features: int,
        width: int,
        dropout: float,
        modality_dropout: float,
        **sizes: float,
    ) -> None:
        super().__init__(
            text_features=text_features,
            image_features=image_features,
            width=width,
            dropout=dropout,
            modality_dropout=modality_dropout,
            **sizes,
        )
        self.text_projection = projection(text_features, width, dropout)
        self.image_projection = projection(image_features, width, dropout)
        self.absent_text = nn.Parameter(torch.zeros(width))
        self.absent_image = nn.Parameter(torch.zeros(width))

    def forward(self, text: Tensor | None, image: Tensor | None) -> Tensor:
        """Classify.

        Args:
            text: FP32 [B, text_features], or None when absent.
            image: FP32 [B, image_features], or None when absent.

        Returns:
            Logits, FP32 [B, K].

        Raises:
            ValueError: when both are absent.
        """
        batch = present(text, image).shape[0]
        text_part = self.absent_text.expand(batch, -1)
        image_part = self.absent_image.expand(batch, -1)
        drop = self._drop(batch, text_part.device) if text is not None is not image else None
        if text is not None:
            text_part = replace(drop and drop[0], self.text_projection(text), text_part)
        if image is not None:
            image_part = replace(drop and drop[1], self.image_projection(image), image_part)
        return self._classify(text_part, image_part)

    def _classify(self, text: Tensor, image: Tensor) -> Tensor:
        """Logits FP32 [B, K] of two projected modalities, FP32 [B, width] each."""
        raise NotImplementedError


def projection(features: int, width: int, dropout: float) -> nn.Sequential:
    """Layers from an encoder's features [..., features] to [..., width]."""
    # The norm puts modalities whose features differ in scale by orders on one footing.
    return nn.Sequential(
        nn.LayerNorm(features), nn.Linear(features, width), nn.GELU(), nn.Dropout(dropout)
    )


def perceptron(features: int, hidden: int, labels: int, dropout: float) -> nn.Sequential:
    """Layers from fused features [B, features] to logits [B, labels]."""
    return nn.Sequential(
        nn.Linear(features, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, labels)
    )


def present(text: Tensor | None, image: Tensor | None) -> Tensor:
    """One of the two that is there.

    Raises:
        ValueError: when neither is.
    """
    features = text if text is not None else image
    if features is None:
        raise ValueError("text and image are both absent; give at least one")
    return features


def replace(drop: Tensor | None, own: Tensor, absent: Tensor) -> Tensor:
    """`own` [B, ...], with `absent` where `drop` BOOL [B] says so."""
    if drop is None:
        return own
    return torch.where(drop.view(-1, *[1] * (own.ndim - 1)), absent, own)


def average(tokens: Tensor, padding: Tensor | None) -> Tensor:
    """Mean FP32 [B, D] of tokens [B, L, D], without those that are `padding`, BOOL [B, L]."""
    if padding is None:
        return tokens.mean(1)
    weights = (~padding).unsqueeze(-1).to(tokens.dtype)
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)
