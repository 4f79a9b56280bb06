"""A head that was trained on standardised scores, and answers in the user's own unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from tritium_builders.models.fusion import FUSION_HEADS, FusionHead
from tritium_builders.models.known import KnownModule


class ScaledHead(KnownModule):
    """`head(...) * unit + centre`, score by score.

    Args:
        head: Gives standardised scores, FP32 [B, K].
        centres: Mean of each score in training.
        units: Standard deviation of each score in training.
    """

    kind: ClassVar[str] = "scaled"
    centres: Tensor
    units: Tensor

    def __init__(self, head: FusionHead, centres: Sequence[float], units: Sequence[float]) -> None:
        super().__init__()
        self.head = head
        self.register_buffer("centres", torch.tensor(centres, dtype=torch.float32))
        self.register_buffer("units", torch.tensor(units, dtype=torch.float32))

    def config(self) -> dict[str, Any]:
        """The head's kind and config; centres and units are among the weights."""
        return {"head": self.head.kind, "config": self.head.config(), "scores": len(self.units)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make the head with weights that are still to be loaded."""
        head = FUSION_HEADS[config["head"]].from_config(config["config"])
        return cls(head, [0.0] * config["scores"], [1.0] * config["scores"]).eval()

    def forward(
        self, text: Tensor | None, image: Tensor | None, text_mask: Tensor | None = None
    ) -> Tensor:
        """Predict scores in their own unit, FP32 [B, K]; arguments as the head's."""
        extra = (text_mask,) if self.head.sequences else ()
        standardised: Tensor = self.head(text, image, *extra)
        return standardised * self.units + self.centres
