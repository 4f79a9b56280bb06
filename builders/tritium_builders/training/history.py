"""What a training loop says of every epoch, for learning curves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """One pass over the training side, and what the watched items said after it."""

    number: int
    """From 1, and from 1 again in each stage of a head."""
    training_loss: float
    """Mean over the items, with dropout and all else that only training has."""
    validation_loss: float
    """What early stopping watches, unless the recipe names another `metric`."""
    score: float
    """`Objective.score` of the validation side; more is better."""


Stage = tuple[Epoch, ...]
"""Epochs in order; most heads are trained in one stage (`FusionHead.stages`)."""
