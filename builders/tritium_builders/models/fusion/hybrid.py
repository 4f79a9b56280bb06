"""Hybrid fusion: a fusion head with a classifier for each modality beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import Self

from tritium_builders.models.fusion.base import (
    BOTH,
    IMAGE,
    TEXT,
    FusionHead,
    Given,
    Loss,
    present,
)
from tritium_builders.models.fusion.single_modality import SingleModalityHead

STEPS = 20
"""Each of the three weights is a multiple of 1/20."""


class HybridFusion(FusionHead):
    """Any fusion head, and two single-modality heads: with both, their probabilities are averaged.

    With a modality absent, the other one's own head answers, so this model is then exactly the
    model that was made for that modality. The three are trained before, each as if alone; the
    weights of the average are chosen afterwards on the validation side.

    Args:
        fusion: The fusion head.
        text: A head that reads the text.
        image: A head that reads the image.

    Source: Baltrusaitis et al. 2019, "Multimodal Machine Learning: A Survey and Taxonomy",
    section 6.1 (hybrid fusion); Snoek et al. 2005.
    """

    kind: ClassVar[str] = "hybrid"
    weights: Tensor

    def __init__(self, fusion: FusionHead, text: FusionHead, image: FusionHead) -> None:
        super().__init__(modality_dropout=fusion.modality_dropout)
        self.fusion, self.text, self.image = fusion, text, image
        # Until they are tuned, the fusion head answers alone.
        self.register_buffer("weights", torch.tensor([1.0, 0.0, 0.0]))

    def forward(
        self, text: Tensor | None, image: Tensor | None, text_mask: Tensor | None = None
    ) -> Tensor:
        """Classify.

        Args:
            text: As the fusion head takes it, or None when absent.
            image: As the fusion head takes it, or None when absent.
            text_mask: INT64 [B, L] beside a sequence of tokens, 1 for a token.

        Returns:
            Logits, FP32 [B, K]; with both modalities, logarithms of probabilities.

        Raises:
            ValueError: when both are absent.
        """
        present(text, image)
        if image is None:
            logits: Tensor = self.text(text, None, text_mask)
        elif text is None:
            logits = self.image(None, image)
        else:
            mask = [text_mask] if text.ndim == 3 else []
            parts = (
                self.fusion(text, image, *mask),
                self.text(text, None, text_mask),
                self.image(None, image),
            )
            logits = _pool([part.softmax(-1) for part in parts], self.weights)
        return logits

    def tune(
        self,
        answers: Mapping[Given, Tensor],
        targets: Tensor,
        loss: Loss = functional.cross_entropy,
    ) -> None:
        """Choose the weights with the lowest loss; of equals the most for the fusion head.

        Args:
            answers: Logits FP32 [N, K] on the validation side, by the modalities that were given,
                from before the weights are tuned.
            targets: INT64 [N], its labels.
            loss: Logits and targets -> how wrong they are.
        """
        parts = [answers[given].double().softmax(-1) for given in (BOTH, TEXT, IMAGE)]
        losses = {}
        for own in range(STEPS, -1, -1):
            for text in range(STEPS - own + 1):
                weights = (own / STEPS, text / STEPS, (STEPS - own - text) / STEPS)
                pooled = _pool(parts, torch.tensor(weights, dtype=torch.float64))
                losses[weights] = round(float(loss(pooled, targets)), 9)
        best = min(losses, key=lambda weights: losses[weights])
        self.weights.copy_(torch.tensor(best))

    def config(self) -> dict[str, Any]:
        """The fusion head's kind, and the configs of all three; the weights lie with the others."""
        return {
            "kind": self.fusion.kind,
            "fusion": self.fusion.config(),
            "text": self.text.config(),
            "image": self.image.config(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make the heads with weights that are still to be loaded."""
        from tritium_builders.models import KNOWN_MODULES

        fusion = KNOWN_MODULES[config["kind"]].from_config(config["fusion"])
        if not isinstance(fusion, FusionHead):
            raise TypeError(f"{config['kind']!r} is no fusion head")
        alone = (SingleModalityHead.from_config(config[name]) for name in ("text", "image"))
        return cls(fusion, *alone).eval()


def _pool(probabilities: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Logarithms of the weighted mean of probabilities, FP32 [B, K]."""
    parts = zip(probabilities, weights, strict=True)
    mean = torch.stack([weight * one for one, weight in parts]).sum(0)
    return mean.clamp(min=1e-12).log()  # a probability of 0 has no logarithm
