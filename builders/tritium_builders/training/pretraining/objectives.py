"""What the loop needs of an objective: masked language modelling and contrastive have it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tritium_builders.training.recipe import PretrainingOptimiserTable


@dataclass(frozen=True)
class Watched:
    """How an objective does on items that it does not train on."""

    loss: float
    """What early stopping watches."""
    figures: Mapping[str, float]
    """What people read, 0 to 1 each; more is better."""


class PretrainingTask(ABC):
    """One objective over the items of a data set.

    Items are given as indices into the data set, INT64 [B].
    """

    encoders: nn.ModuleDict
    """Whatever is kept afterwards; learns at the encoders' rate."""
    heads: nn.ModuleDict
    """What is put on top and thrown away; learns at its own rate."""

    @abstractmethod
    def loss(self, items: Tensor) -> Tensor:
        """What a step minimises, FP32 []; with dropout and what else is random."""

    @abstractmethod
    def watch(self, items: Tensor) -> Watched:
        """How it does on some items, the same at every call with the same weights."""

    @abstractmethod
    def write(self, folder: Path) -> list[Path]:
        """Write the encoders that were adapted.

        Args:
            folder: Empty, and the recipe's `out` later.

        Returns:
            The folders that a training recipe may name as a source.
        """

    def modules(self) -> nn.ModuleList:
        """All that learns."""
        return nn.ModuleList([self.encoders, self.heads])

    def train(self, mode: bool) -> None:
        """Turn dropout on or off."""
        self.modules().train(mode)

    def groups(self, table: PretrainingOptimiserTable) -> list[dict[str, Any]]:
        """Weights by learning rate and weight decay, which norms and biases have none of."""
        groups = []
        for modules, rate in (
            (self.encoders, table.learning_rate),
            (self.heads, table.head_learning_rate),
        ):
            weights = [one for one in modules.parameters() if one.requires_grad]
            for vectors in (False, True):
                own = [one for one in weights if (one.ndim < 2) == vectors]
                decay = 0.0 if vectors else table.weight_decay
                if own:
                    groups.append({"params": own, "lr": rate, "weight_decay": decay})
        return groups
