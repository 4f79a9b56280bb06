"""Training of a fusion head on frozen encoders' features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from tritium_builders.data import Dataset
from tritium_builders.data.card import DataCard
from tritium_builders.models import (
    FUSION_HEADS,
    FusionHead,
    LoadedImageEncoder,
    LoadedTextEncoder,
    SingleModalityHead,
)
from tritium_builders.samples import modalities_key
from tritium_builders.training.calibration import with_temperatures
from tritium_builders.training.features import Features, compute_features
from tritium_builders.training.fit import HeadKind, answers_of, fit, reproducible
from tritium_builders.training.history import Epoch, Stage
from tritium_builders.training.objective import make_objective
from tritium_builders.training.own_data import load_data, load_encoders, make_split
from tritium_builders.training.recipe import Recipe
from tritium_builders.training.splits import Split


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
    history: tuple[Stage, ...] = ()
    """Every epoch of every stage of the training."""

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
    objective = make_objective(prepared.recipe, prepared.dataset)
    objective.balance(torch.from_numpy(split.train))
    table, features = prepared.recipe.optimiser, prepared.features
    with reproducible(seed):
        head = _make_head(prepared, kind, objective.outputs)
        watched = torch.from_numpy(split.validation)
        epochs, history = 0, []
        for losses in head.stages(prepared.recipe.fusion.absent_loss):
            stage: list[Epoch] = []
            best = fit(head, features, objective, split, table, losses, stage.append)
            epochs = max(epochs, best)
            history.append(tuple(stage))
        targets = objective.targets[watched]
        head.tune(answers_of(head, features.select(watched), kind), targets)
        if prepared.recipe.fusion.calibration == "temperature":
            answers = answers_of(head, features.select(watched), kind)
            head = with_temperatures(head, answers, targets, objective)
        validation = next(iter(answers_of(head, features.select(watched), kind).values()))
        held_out = answers_of(head, features.select(torch.from_numpy(split.held_out)), kind)
    return TrainedFold(
        fold=fold,
        seed=seed,
        head=head,
        epochs=epochs,
        held_out=tuple(split.held_out.tolist()),
        probabilities={
            modalities_key(given): objective.answers(logits).numpy()
            for given, logits in held_out.items()
        },
        validation_accuracy=objective.score(validation, targets),
        validation_loss=float(objective.validation_loss(validation, targets)),
        history=tuple(history),
    )


def _make_head(prepared: Prepared, kind: HeadKind, outputs: int) -> FusionHead:
    table = prepared.recipe.fusion
    text_features = prepared.features.text.shape[-1]
    image_features = prepared.features.image.shape[-1]
    if kind != "fusion":
        return SingleModalityHead(
            text_features=text_features if kind == "text" else 0,
            image_features=image_features if kind == "image" else 0,
            labels=outputs,
            dropout=table.dropout,
        )
    head = FUSION_HEADS[table.strategy]
    return head(
        text_features=text_features,
        image_features=image_features,
        labels=outputs,
        dropout=table.dropout,
        modality_dropout=table.modality_dropout,
        **{name: getattr(table, name) for name in head.settings},
    )
