"""Training of a fusion head on frozen encoders' features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tritium_builders.data import Dataset
from tritium_builders.data.card import DataCard
from tritium_builders.models import (
    HEADS,
    FusionHead,
    LateFusion,
    LoadedImageEncoder,
    LoadedTextEncoder,
    SingleModalityHead,
)
from tritium_builders.models.fusion.base import Given
from tritium_builders.samples import modalities_key
from tritium_builders.training.calibration import with_temperatures
from tritium_builders.training.features import Features, compute_features
from tritium_builders.training.fit import answers_of, fit, reproducible
from tritium_builders.training.history import Epoch, Stage
from tritium_builders.training.objective import HeadKind, Objective, make_objective
from tritium_builders.training.own_data import load_data, load_encoders, make_split
from tritium_builders.training.recipe import Recipe
from tritium_builders.training.rounds.start import Start
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
    start: Start | None = None
    """What the fusion head begins with; None: random weights."""
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
    """What was answered, by `modalities_key`: FP32 [held-out items, labels], or [items, words,
    labels]."""
    validation_accuracy: float
    """Score of the validation side, with all that the head reads; accuracy for one label."""
    validation_loss: float
    """Loss of the same answers."""
    finished: nn.Module
    """What goes into the bundle: the head, and whatever brings its answers into their own unit."""
    thresholds: tuple[float, ...] = ()
    """Of a multi-label model: from which probability on each label holds."""
    units: tuple[float, ...] = ()
    """Of a regression: the spread of each score on the training side."""
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
    objective = make_objective(prepared.recipe, prepared.dataset, prepared.features)
    objective.balance(torch.from_numpy(split.train))
    features = prepared.features
    with reproducible(seed):
        watched = torch.from_numpy(split.validation)
        given = objective.given if kind == "fusion" else ((kind,),)
        if kind == "fusion" and prepared.recipe.ensemble is not None:
            from tritium_builders.training.ensembles import train_ensemble

            head, epochs = train_ensemble(prepared, objective, split, prepared.recipe.ensemble)
            history: tuple[Stage, ...] = ()
        else:
            head = make_head(prepared, kind, objective.outputs)
            epochs, history = fit_head(prepared, head, objective, split, kind)
        targets = objective.targets[watched]
        if prepared.recipe.fusion.calibration == "temperature":
            answers = answers_of(head, features.select(watched), given)
            head = with_temperatures(head, answers, targets, objective)
        validation = next(iter(answers_of(head, features.select(watched), given).values()))
        held_out = answers_of(head, features.select(torch.from_numpy(split.held_out)), given)
        thresholds = objective.thresholds(objective.answers(validation).numpy(), targets.numpy())
    return TrainedFold(
        fold=fold,
        seed=seed,
        head=head,
        finished=objective.finish(head),
        epochs=epochs,
        held_out=tuple(split.held_out.tolist()),
        probabilities={
            modalities_key(given): objective.answers(logits).numpy()
            for given, logits in held_out.items()
        },
        validation_accuracy=objective.score(validation, targets),
        validation_loss=float(objective.validation_loss(validation, targets)),
        thresholds=thresholds,
        units=objective.units,
        history=history,
    )


def fit_head(
    prepared: Prepared,
    head: FusionHead,
    objective: Objective,
    split: Split,
    kind: HeadKind = "fusion",
) -> tuple[int, tuple[Stage, ...]]:
    """Train a head through all of its stages and tune it on the validation side.

    Args:
        prepared: What it is trained on, and how.
        head: Ends with its best weights, in evaluation mode.
        objective: What is minimised.
        split: Which items are trained on, and which are watched; items may be there twice.
        kind: What the head reads.

    Returns:
        The epoch that was best, from 1, of several stages the last such; and all epochs.
    """
    table, features = prepared.recipe.optimiser, prepared.features
    watched = torch.from_numpy(split.validation)
    epochs, history = 0, []
    for losses in _stages(prepared.recipe, head, kind):
        stage: list[Epoch] = []
        best = fit(head, features, objective, split, table, losses, stage.append)
        epochs = max(epochs, best)
        history.append(tuple(stage))
    given = objective.given if kind == "fusion" else ((kind,),)
    answers = answers_of(head, features.select(watched), given)
    head.tune(answers, objective.targets[watched], objective.validation_loss)
    return epochs, tuple(history)


def _stages(recipe: Recipe, head: FusionHead, kind: HeadKind) -> tuple[Mapping[Given, float], ...]:
    """What is minimised, one stage after the other."""
    if kind != "fusion" and not isinstance(head, SingleModalityHead):
        return ({(kind,): 1.0},)  # words are tagged by the same head, which sees no picture
    return head.stages(recipe.fusion.absent_loss)


def make_head(prepared: Prepared, kind: HeadKind, outputs: int) -> FusionHead:
    """Make a head with random weights, or with those of the bundle that is trained on.

    Args:
        prepared: Its recipe says which.
        kind: The recipe's, or one that reads one modality.
        outputs: How many logits it has for an item, K.
    """
    table = prepared.recipe.fusion
    text_features = prepared.features.text.shape[-1]
    image_features = prepared.features.image.shape[-1]
    if kind != "fusion" and prepared.recipe.task != "tagging":
        return SingleModalityHead(
            text_features=text_features if kind == "text" else 0,
            image_features=image_features if kind == "image" else 0,
            labels=outputs,
            dropout=table.dropout,
        )
    head = HEADS[table.strategy]
    extra: dict[str, Any] = {"task": prepared.recipe.task} if head is LateFusion else {}
    made = head(
        **extra,
        text_features=text_features,
        image_features=image_features,
        labels=outputs,
        dropout=table.dropout,
        modality_dropout=table.modality_dropout,
        **{name: getattr(table, name) for name in head.settings},
    )
    if prepared.start is not None and kind == "fusion":
        prepared.start.apply(made)
    return made
