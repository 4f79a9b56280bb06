"""`[imbalance]`: what is done where some labels are much rarer than others."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tritium_builders.training.recipe.table import Table

ImbalanceStrategy = Literal["none", "weighted_loss", "resampling", "focal_loss", "logit_adjustment"]
LabelWeights = Literal["inverse", "effective"]


class ImbalanceTable(Table):
    """`[imbalance]`: how training makes up for rare labels; the answers get nothing added."""

    strategy: ImbalanceStrategy = "none"
    """docs/class-imbalance.md says which is for what. One that does not have a setting ignores
    it."""
    weights: LabelWeights | None = None
    """How much more a rare label counts: by the inverse of its items, or of their effective number.
    Default: `inverse`; focal_loss: all labels count the same."""
    beta: float = Field(default=0.999, gt=0, lt=1)
    """`effective`: the nearer to 1, the nearer to `inverse`."""
    gamma: float = Field(default=2.0, ge=0)
    """focal_loss: how little an item counts that is answered rightly; 0 is cross-entropy."""
    tau: float = Field(default=1.0, ge=0)
    """logit_adjustment: 1 evens the labels out, 0 does nothing."""
