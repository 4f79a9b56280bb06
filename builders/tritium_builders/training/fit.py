"""The loop that trains a head on features."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tritium_builders.models import FusionHead
from tritium_builders.models.fusion.base import Given
from tritium_builders.training.features import Features
from tritium_builders.training.history import Epoch, Watch, ignore
from tritium_builders.training.objective import Objective
from tritium_builders.training.recipe import OptimiserTable
from tritium_builders.training.splits import Split


def fit(
    head: FusionHead,
    features: Features,
    objective: Objective,
    split: Split,
    table: OptimiserTable,
    losses: Mapping[Given, float],
    watch: Watch = ignore,
) -> int:
    """Train until the validation loss has not fallen for `patience` epochs; keep the best.

    Args:
        head: Ends with its best weights, in evaluation mode.
        features: Of all items.
        objective: What is minimised.
        split: Which items are trained on, and which are watched.
        table: How.
        losses: Modalities that are given -> weight of the loss with them; the first is watched.
        watch: Told of every epoch.

    Returns:
        The epoch that was best, from 1.
    """
    optimiser = torch.optim.AdamW(
        head.parameters(), lr=table.learning_rate, weight_decay=table.weight_decay, fused=True
    )
    targets = objective.targets
    train, validation = torch.from_numpy(split.train), torch.from_numpy(split.validation)
    watched, given_to_watch = features.select(validation), next(iter(losses))
    best_loss, best_epoch, best_weights = float("inf"), 0, head.state_dict()
    for epoch in range(1, table.max_epochs + 1):
        head.train()
        order, total = objective.epoch(train), torch.zeros(())
        for batch in torch.split(order, table.batch_size):
            optimiser.zero_grad()
            own = features.select(batch)
            loss: Any = sum(
                weight * objective.loss(logits_of(head, own, given), targets[batch])
                for given, weight in losses.items()
            )
            total += loss.detach() * len(batch)
            loss.backward()
            optimiser.step()
        head.eval()
        with torch.inference_mode():
            logits = logits_of(head, watched, given_to_watch)
            validation_loss = float(objective.validation_loss(logits, targets[validation]))
            score = objective.score(logits, targets[validation])
        watch(Epoch(epoch, float(total) / len(order), validation_loss, score))
        if validation_loss < best_loss:
            best_loss, best_epoch = validation_loss, epoch
            best_weights = copy.deepcopy(head.state_dict())
        elif epoch - best_epoch >= table.patience:
            break
    head.load_state_dict(best_weights)
    head.eval()
    return best_epoch


@torch.inference_mode()
def answers_of(head: FusionHead, features: Features, given: Sequence[Given]) -> dict[Given, Tensor]:
    """Logits [N, K], or [N, W, K], for each of the given sets of modalities."""
    return {one: logits_of(head, features, one) for one in given}


def logits_of(head: FusionHead, features: Features, given: Given) -> Tensor:
    """Logits FP32 [N, K] with these modalities given and the others absent."""
    text = features.text if "text" in given else None
    image = features.image if "image" in given else None
    if features.text_mask is None or not head.sequences:
        logits: Tensor = head(text, image)
    else:
        logits = head(text, image, features.text_mask if "text" in given else None)
    return logits


@contextlib.contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Seed torch and pin what changes the order of additions; restore everything after."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic)
            torch.set_num_threads(threads)
