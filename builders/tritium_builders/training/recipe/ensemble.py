"""`[ensemble]`: several heads over the same encoders, which answer as one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tritium_builders.training.recipe.model import Strategy
from tritium_builders.training.recipe.table import Table

EnsembleKind = Literal["average", "bagging", "boosting", "stacking"]


class EnsembleTable(Table):
    """`[ensemble]`: how many heads are trained, on what, and who makes one answer of theirs."""

    kind: EnsembleKind
    """docs/ensembles.md says which is for what."""
    members: int = Field(default=5, ge=2, le=64)
    """Heads; boosting may stop with fewer."""
    strategies: list[Strategy] | None = Field(default=None, min_length=1)
    """Fusion strategies that the members take in turn. Default: the one of `[fusion]`."""
    folds: int = Field(default=5, ge=2, le=50)
    """stacking: into how many parts the training side is split for out-of-fold answers."""
    rate: float = Field(default=0.5, gt=0, le=1)
    """boosting: how much of every head after the first is added."""

    def strategy_of(self, member: int, default: Strategy) -> Strategy:
        """The strategy of a member.

        Args:
            member: Its number, from 0.
            default: The strategy of `[fusion]`.
        """
        return (
            default if self.strategies is None else self.strategies[member % len(self.strategies)]
        )

    def describe(self, default: Strategy) -> str:
        """Name it in a few words, for instance `bagging of 5 concat`.

        Args:
            default: The strategy of `[fusion]`.
        """
        return f"{self.kind} of {self.members} {', '.join(self.strategies or [default])}"
