"""Training of a fusion head on frozen encoders' features."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tritium_builders.data import Dataset
from tritium_builders.data.card import DataCard
from tritium_builders.models import (
    FUSION_HEADS,
    FusionHead,
    LoadedImageEncoder,
    LoadedTextEncoder,
    SingleModalityHead,
)
from tritium_builders.models.fusion.base import BOTH, IMAGE, TEXT, Given
from tritium_builders.samples import modalities_key
from tritium_builders.training.features import Features, compute_features
from tritium_builders.training.own_data import load_data, load_encoders, make_split
from tritium_builders.training.recipe import OptimiserTable, Recipe
from tritium_builders.training.splits import Split

ENTRY_POINTS: tuple[Given, ...] = (BOTH, TEXT, IMAGE)
HeadKind = Literal["fusion", "text", "image"]
"""The recipe's fusion head, or a perceptron over one modality for comparison."""
HEAD_KINDS: tuple[HeadKind, ...] = get_args(HeadKind)


@dataclass(frozen=True)
class Prepared:
    """Everything that training a head needs, and that does not depend on fold or seed."""

    recipe: Recipe
    dataset: Dataset
    text: LoadedTextEncoder
    image: LoadedImageEncoder
    features: Features
    card: DataCard | None = None
    """What the data set consists of; None for the demo data set."""
    _splits: dict[int, Split] = field(default_factory=dict, init=False, repr=False)
    """Kept, because one split takes as long as half a training."""

    def split(self, fold: int) -> Split:
        """The three sides of one fold; the same for all where the data gives its own."""
        if fold not in self._splits:
            self._splits[fold] = make_split(self.recipe, self.dataset, fold)
        return self._splits[fold]

    def keep_split(self, fold: int, split: Split) -> None:
        """Take over a split that was already made from the same data and the same `[split]`."""
        self._splits[fold] = split


@dataclass(frozen=True)
class TrainedFold:
    """A trained head, and what it says about the items that it never saw."""

    fold: int
    seed: int
    head: FusionHead
    epochs: int
    """Epochs until the validation loss was lowest."""
    held_out: tuple[int, ...]
    """Indices into the data set."""
    probabilities: Mapping[str, npt.NDArray[np.float32]]
    """FP32 [held-out items, labels] by `modalities_key`."""
    validation_accuracy: float
    """Share of the validation side that is labelled rightly, with all that the head reads."""
    validation_loss: float
    """Cross-entropy of the same answers."""

    def accuracy(self, dataset: Dataset, key: str = "text,image") -> float:
        """Share of the held-out items whose most probable label is right, 0 to 1."""
        targets = np.asarray(dataset.targets)[list(self.held_out)]
        return float(np.mean(self.probabilities[key].argmax(-1) == targets))


def prepare(recipe: Recipe, folder: Path = Path(), *, every_fold: bool = False) -> Prepared:
    """Load data and encoders and compute the features, or read them from the cache.

    Args:
        recipe: The recipe.
        folder: Where it lies; paths in its `[data]` start there.
        every_fold: Whether each fold is to be held out in turn, which data with splits of its
            own has not.

    Raises:
        RecipeError: when something that the recipe names cannot be used.
        MissingExtraError: when a package is not installed.
    """
    text, image = load_encoders(recipe)
    data = load_data(recipe, folder, text, image, every_fold=every_fold)
    features = compute_features(data.dataset, text, image)
    prepared = Prepared(recipe, data.dataset, text, image, features, data.card)
    if data.split is not None:
        prepared._splits[recipe.split.fold] = data.split
    return prepared


def train_fold(
    prepared: Prepared, *, fold: int, seed: int, kind: HeadKind = "fusion"
) -> TrainedFold:
    """Train one head and let it answer the held-out items.

    The same arguments give the same weights on the same machine.

    Args:
        prepared: From `prepare`.
        fold: The fold that is held out, from 0.
        seed: Of initial weights, batches, dropout and modality dropout.
        kind: Which head.
    """
    split = prepared.split(fold)
    targets = torch.tensor(prepared.dataset.targets)
    table, features = prepared.recipe.optimiser, prepared.features
    with _reproducible(seed):
        head = _make_head(prepared, kind)
        watched = torch.from_numpy(split.validation)
        epochs = max(
            _fit(head, features, targets, split, table, losses)
            for losses in head.stages(prepared.recipe.fusion.absent_loss)
        )
        head.tune(_answers(head, features.select(watched), kind), targets[watched])
        validation = next(iter(_answers(head, features.select(watched), kind).values()))
        held_out = _answers(head, features.select(torch.from_numpy(split.held_out)), kind)
    return TrainedFold(
        fold=fold,
        seed=seed,
        head=head,
        epochs=epochs,
        held_out=tuple(split.held_out.tolist()),
        probabilities={
            modalities_key(given): logits.softmax(-1).numpy() for given, logits in held_out.items()
        },
        validation_accuracy=float((validation.argmax(-1) == targets[watched]).float().mean()),
        validation_loss=float(nn.functional.cross_entropy(validation, targets[watched])),
    )


def _make_head(prepared: Prepared, kind: HeadKind) -> FusionHead:
    table = prepared.recipe.fusion
    text_features = prepared.features.text.shape[-1]
    image_features = prepared.features.image.shape[-1]
    labels = len(prepared.dataset.labels)
    if kind != "fusion":
        return SingleModalityHead(
            text_features=text_features if kind == "text" else 0,
            image_features=image_features if kind == "image" else 0,
            labels=labels,
            dropout=table.dropout,
        )
    head = FUSION_HEADS[table.strategy]
    return head(
        text_features=text_features,
        image_features=image_features,
        labels=labels,
        dropout=table.dropout,
        modality_dropout=table.modality_dropout,
        **{name: getattr(table, name) for name in head.settings},
    )


def _fit(
    head: FusionHead,
    features: Features,
    targets: Tensor,
    split: Split,
    table: OptimiserTable,
    losses: Mapping[Given, float],
) -> int:
    """Train until the validation loss has not fallen for `patience` epochs; keep the best."""
    optimiser = torch.optim.AdamW(
        head.parameters(), lr=table.learning_rate, weight_decay=table.weight_decay, fused=True
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=table.label_smoothing)
    train, validation = torch.from_numpy(split.train), torch.from_numpy(split.validation)
    watched, given_to_watch = features.select(validation), next(iter(losses))
    best_loss, best_epoch, best_weights = float("inf"), 0, head.state_dict()
    for epoch in range(1, table.max_epochs + 1):
        head.train()
        for batch in torch.split(train[torch.randperm(len(train))], table.batch_size):
            optimiser.zero_grad()
            own = features.select(batch)
            loss: Any = sum(
                weight * loss_of(_logits(head, own, given), targets[batch])
                for given, weight in losses.items()
            )
            loss.backward()
            optimiser.step()
        validation_loss = _loss(head, watched, targets[validation], given_to_watch)
        if validation_loss < best_loss:
            best_loss, best_epoch = validation_loss, epoch
            best_weights = copy.deepcopy(head.state_dict())
        elif epoch - best_epoch >= table.patience:
            break
    head.load_state_dict(best_weights)
    head.eval()
    return best_epoch


@torch.inference_mode()
def _loss(head: FusionHead, features: Features, targets: Tensor, given: Given) -> float:
    head.eval()
    return float(nn.functional.cross_entropy(_logits(head, features, given), targets))


@torch.inference_mode()
def _answers(head: FusionHead, features: Features, kind: HeadKind) -> dict[Given, Tensor]:
    """Logits [N, K] for every set of modalities that the head takes."""
    return {
        given: _logits(head, features, given)
        for given in ENTRY_POINTS
        if kind == "fusion" or given == (kind,)
    }


def _logits(head: FusionHead, features: Features, given: Given) -> Tensor:
    text = features.text if "text" in given else None
    image = features.image if "image" in given else None
    if features.text_mask is None:
        logits: Tensor = head(text, image)
    else:
        logits = head(text, image, features.text_mask if "text" in given else None)
    return logits


@contextlib.contextmanager
def _reproducible(seed: int) -> Iterator[None]:
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
