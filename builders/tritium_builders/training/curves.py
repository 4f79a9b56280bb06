"""Learning curves, as report.json keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tritium_builders.training.records import Record

if TYPE_CHECKING:
    from tritium_builders.training.folds import TrainedFold


class Curve(Record):
    """One training by epoch; the lists are equally long."""

    seed: int
    best_epoch: int
    """The epoch whose weights were kept, counted over all stages from 1."""
    stages: list[int]
    """How many epochs each stage took."""
    training_loss: list[float]
    """With dropout and all else that only training has, so that it does not compare with
    `validation_loss`; its fall does."""
    validation_loss: list[float]
    score: list[float]
    """Of the validation side; accuracy for a classifier."""


def make_curves(trained: Sequence[TrainedFold]) -> list[Curve]:
    """Write down how every seed learned.

    Args:
        trained: One training a seed; those that kept no history are left out.
    """
    return [_curve(one) for one in trained if any(one.history)]


def _curve(trained: TrainedFold) -> Curve:
    epochs = [epoch for stage in trained.history for epoch in stage]
    last = trained.history[-1]
    before = len(epochs) - len(last)
    best = min(last, key=lambda epoch: epoch.validation_loss)
    return Curve(
        seed=trained.seed,
        best_epoch=before + best.number,
        stages=[len(stage) for stage in trained.history],
        training_loss=[round(epoch.training_loss, 6) for epoch in epochs],
        validation_loss=[round(epoch.validation_loss, 6) for epoch in epochs],
        score=[round(epoch.score, 6) for epoch in epochs],
    )
