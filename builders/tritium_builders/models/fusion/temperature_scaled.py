"""A fusion head whose logits are divided by a number, so that probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from tritium_builders.models.fusion.base import BOTH, IMAGE, TEXT, FusionHead, Given

ORDER: tuple[Given, ...] = (BOTH, TEXT, IMAGE)
"""What each of `temperatures` is for."""


class TemperatureScaled(FusionHead):
    """Another head, with a temperature for each set of modalities; the best label stays the best.

    Args:
        head: The head.
        temperatures: Modalities that are given -> temperature, larger than 0; those that are not
            named have 1.

    Raises:
        ValueError: for a temperature that is not larger than 0.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.
    """

    kind: ClassVar[str] = "temperature_scaled"
    temperatures: Tensor

    def __init__(self, head: FusionHead, temperatures: Mapping[Given, float]) -> None:
        super().__init__(modality_dropout=head.modality_dropout)
        values = [float(temperatures.get(given, 1.0)) for given in ORDER]
        if not min(values) > 0:
            raise ValueError(f"a temperature must be larger than 0, not {min(values)}")
        self.head = head
        self.register_buffer("temperatures", torch.tensor(values))

    def forward(
        self, text: Tensor | None, image: Tensor | None, text_mask: Tensor | None = None
    ) -> Tensor:
        """Classify.

        Args:
            text: As the head takes it, or None when absent.
            image: As the head takes it, or None when absent.
            text_mask: INT64 [B, L] beside a sequence of tokens, 1 for a token.

        Returns:
            Logits, FP32 [B, K].

        Raises:
            ValueError: when both are absent.
        """
        sequence = text is not None and text.ndim == 3
        logits: Tensor = self.head(text, image, *([text_mask] if sequence else []))
        given = BOTH if text is not None is not image else IMAGE if text is None else TEXT
        return logits / self.temperatures[ORDER.index(given)]

    def config(self) -> dict[str, Any]:
        """The head's kind and its config; the temperatures lie with the weights."""
        return {"kind": self.head.kind, "head": self.head.config()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make the head with weights and temperatures that are still to be loaded."""
        from tritium_builders.models import KNOWN_MODULES

        head = KNOWN_MODULES[config["kind"]].from_config(config["head"])
        if not isinstance(head, FusionHead):
            raise TypeError(f"{config['kind']!r} is no fusion head")
        return cls(head, {}).eval()
