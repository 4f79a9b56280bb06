"""The loop that pretrains: steps, a schedule, early stopping."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import get_cosine_schedule_with_warmup

from tritium_builders.data.progress import track
from tritium_builders.errors import TrainingError
from tritium_builders.training.pretraining.objectives import PretrainingTask, Watched
from tritium_builders.training.recipe import PretrainingOptimiserTable


@dataclass(frozen=True)
class Pretrained:
    """How a pretraining went."""

    before: Watched
    """With the encoders as they came, and a head that has learned nothing."""
    after: Watched
    """With the weights that are kept."""
    best_epoch: int
    """From 1."""
    losses: tuple[float, ...]
    """Watched after each epoch."""


def pretrain_task(
    task: PretrainingTask, train: Tensor, validation: Tensor, table: PretrainingOptimiserTable
) -> Pretrained:
    """Train until the watched loss has not fallen for `patience` epochs; keep the best.

    Args:
        task: Ends with its best weights, in evaluation mode.
        train: Items that are trained on, INT64 [N].
        validation: Items that are watched, INT64 [M].
        table: How.

    Raises:
        TrainingError: when the loss is no number any more.
    """
    modules = task.modules()
    optimiser = torch.optim.AdamW(task.groups(table), fused=True)
    steps = table.max_epochs * math.ceil(len(train) / table.batch_size)
    schedule = get_cosine_schedule_with_warmup(optimiser, round(table.warmup * steps), steps)
    task.train(False)
    before = best = task.watch(validation)
    losses: list[float] = []
    lowest, best_epoch, kept = math.inf, 0, modules.state_dict()
    for epoch in range(1, table.max_epochs + 1):
        task.train(True)
        batches = torch.split(train[torch.randperm(len(train))], table.batch_size)
        shown = track(batches, f"Pretraining, epoch {epoch}", total=len(batches))
        for number, batch in enumerate(shown, start=1):
            optimiser.zero_grad()
            loss: Any = task.loss(batch)
            _check(float(loss.detach()), f"step {number} of epoch {epoch}")
            loss.backward()
            nn.utils.clip_grad_norm_(modules.parameters(), table.gradient_clip)
            optimiser.step()
            schedule.step()
        task.train(False)
        watched = task.watch(validation)
        _check(watched.loss, f"the validation items after epoch {epoch}")
        losses.append(watched.loss)
        if watched.loss < lowest:
            lowest, best_epoch, best = watched.loss, epoch, watched
            kept = copy.deepcopy(modules.state_dict())
        elif epoch - best_epoch >= table.patience:
            break
    modules.load_state_dict(kept)
    return Pretrained(before, best, best_epoch, tuple(losses))


def _check(loss: float, where: str) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"pretraining: the loss is {loss} at {where}, and nothing was written; lower "
            "optimiser.learning_rate, or look for texts and pictures that are odd"
        )
