"""One training: a head, on features of frozen encoders or above encoders that learn with it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tritium_builders.data import Dataset
from tritium_builders.data.cache import content_key
from tritium_builders.data.card import DataCard
from tritium_builders.errors import require
from tritium_builders.models import (
    HEADS,
    FusionHead,
    HybridFusion,
    LateFusion,
    LoadedImageEncoder,
    LoadedTextEncoder,
    SingleModalityHead,
)
from tritium_builders.models.fusion.base import BOTH, Given
from tritium_builders.samples import modalities_key
from tritium_builders.training.calibration import with_temperatures
from tritium_builders.training.checkpoints import Checkpoint, checkpoints_folder
from tritium_builders.training.distributed import processes
from tritium_builders.training.features import Features, compute_features, truncating_tokenizer
from tritium_builders.training.fit import Run, fit, reproducible
from tritium_builders.training.history import Stage
from tritium_builders.training.inputs import Feed, Pictures, Texts
from tritium_builders.training.network import FusionNetwork, answers_of, features_for
from tritium_builders.training.objective import HeadKind, Objective, make_objective
from tritium_builders.training.own_data import load_data, load_encoders, make_split
from tritium_builders.training.recipe import Recipe
from tritium_builders.training.rounds.start import Start
from tritium_builders.training.splits import Split
from tritium_builders.training.trainable import trainable_copy
from tritium_client.contract import Modality


@dataclass(frozen=True)
class Prepared:
    """Everything that training a head needs, and that does not depend on fold or seed."""

    recipe: Recipe
    dataset: Dataset
    text: LoadedTextEncoder
    image: LoadedImageEncoder
    features: Features
    card: DataCard | None = None
    """What the data set consists of; None where somebody made it in Python."""
    start: Start | None = None
    """What the fusion head begins with; None: random weights."""
    _splits: dict[int, Split] = field(default_factory=dict, init=False, repr=False)
    """Kept, because one split takes as long as half a training."""
    _alone: dict[tuple[int, int, Modality], _Alone] = field(
        default_factory=dict, init=False, repr=False
    )
    """By fold, seed and modality: a hybrid's members are also what the report compares it with."""

    def split(self, fold: int) -> Split:
        """The three sides of one fold; the same for all where the data gives its own."""
        if fold not in self._splits:
            self._splits[fold] = make_split(self.recipe, self.dataset, fold)
        return self._splits[fold]

    def checkpoints(self, fold: int) -> Path:
        """Where trainings keep how far they are, until the bundle is written."""
        recipe = self.recipe.model_dump_json(exclude={"out", "seeds", "samples"})
        split = self.split(fold)
        targets = repr([(item.label, item.target) for item in self.dataset.items])
        arrays = (split.train, split.validation, split.held_out)
        described = (recipe, self._features_key, targets, f"torch {torch.__version__}")
        return checkpoints_folder(
            content_key(
                [*(part.encode() for part in described), *(array.tobytes() for array in arrays)]
            )
        )

    @cached_property
    def _features_key(self) -> str:
        """Of the items and the encoders as they were loaded: both are in the features."""
        own = self.features
        tensors = [own.text, own.image, *([] if own.text_mask is None else [own.text_mask])]
        return content_key(tensor.numpy().tobytes() for tensor in tensors)

    def keep_split(self, fold: int, split: Split) -> None:
        """Take over a split that was already made from the same data and the same `[split]`."""
        self._splits[fold] = split


@dataclass(frozen=True)
class _Alone:
    """A head of one modality, trained on features of frozen encoders."""

    head: FusionHead
    epochs: int
    history: tuple[Stage, ...]


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
    text_encoder: nn.Module | None = None
    """With the weights of this training; None where it stays as it was prepared."""
    image_encoder: nn.Module | None = None
    """Likewise."""

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
    require("sklearn", "train")
    text, image = load_encoders(recipe)
    with processes().first_goes_ahead():
        data = load_data(recipe, folder, text, image, every_fold=every_fold)
        features = compute_features(data.dataset, text, image)
    prepared = Prepared(recipe, data.dataset, text, image, features, data.card)
    if data.split is not None:
        prepared.keep_split(recipe.split.fold, data.split)
    return prepared


def train_fold(
    prepared: Prepared, *, fold: int, seed: int, kind: HeadKind = "fusion"
) -> TrainedFold:
    """Train one head, and the encoders that learn with it, and let it answer the held-out items.

    The same arguments give the same weights on the same machine. A training that was killed goes
    on from its checkpoint.

    Args:
        prepared: From `prepare`.
        fold: The fold that is held out, from 0.
        seed: Of initial weights, batches, dropout and modality dropout.
        kind: Which head; one of a single modality trains that modality's encoder alone.

    Raises:
        TrainingError: when the training diverges, or the disk is full.
        RecipeError: when the recipe asks for what encoders or task do not have.
    """
    split, recipe = prepared.split(fold), prepared.recipe
    objective = make_objective(recipe, prepared.dataset, prepared.features)
    objective.balance(torch.from_numpy(split.train))
    device = processes().device if recipe.fine_tunes else torch.device("cpu")
    # Small heads are as fast on one core; encoders take all that there are.
    threads = torch.get_num_threads() if recipe.fine_tunes else 1
    with reproducible(seed, threads=threads, device=device):
        given = objective.given if kind == "fusion" else ((kind,),)
        learned = _learn(prepared, objective, kind, seed=seed, fold=fold, device=device)
        head, targets = learned.head, objective.targets[torch.from_numpy(split.validation)]
        if recipe.fusion.calibration == "temperature":
            answers = answers_of(head, learned.watched, given)
            head = with_temperatures(head, answers, targets, objective)
        validation = next(iter(answers_of(head, learned.watched, given).values()))
        held_out = answers_of(head, learned.held_out, given)
        thresholds = objective.thresholds(objective.answers(validation).numpy(), targets.numpy())
    return TrainedFold(
        fold=fold,
        seed=seed,
        head=head,
        finished=objective.finish(head),
        epochs=learned.epochs,
        held_out=tuple(split.held_out.tolist()),
        probabilities={
            modalities_key(given): objective.answers(logits).numpy()
            for given, logits in held_out.items()
        },
        validation_accuracy=objective.score(validation, targets),
        validation_loss=float(objective.validation_loss(validation, targets)),
        thresholds=thresholds,
        units=objective.units,
        history=learned.history,
        text_encoder=learned.text_encoder,
        image_encoder=learned.image_encoder,
    )


@dataclass(frozen=True)
class _Learned:
    """What training made, and what the encoders now say of the items that it did not train on."""

    head: FusionHead
    epochs: int
    history: tuple[Stage, ...]
    watched: Features
    held_out: Features
    text_encoder: nn.Module | None = None
    image_encoder: nn.Module | None = None


def _learn(
    prepared: Prepared,
    objective: Objective,
    kind: HeadKind,
    *,
    seed: int,
    fold: int,
    device: torch.device,
) -> _Learned:
    split = prepared.split(fold)
    watched, held_out = (torch.from_numpy(side) for side in (split.validation, split.held_out))
    if kind == "fusion" and prepared.recipe.ensemble is not None:
        from tritium_builders.training.ensembles import train_ensemble

        head, epochs = train_ensemble(prepared, objective, split, prepared.recipe.ensemble)
        features = prepared.features
        return _Learned(head, epochs, (), features.select(watched), features.select(held_out))
    if kind != "fusion" and (one := prepared._alone.get((fold, seed, kind))) is not None:
        features = prepared.features
        return _Learned(
            deepcopy(one.head),
            one.epochs,
            one.history,
            features.select(watched),
            features.select(held_out),
        )
    network = _make_network(prepared, kind, objective.outputs).to(device)
    feed = _make_feed(prepared, network)
    epochs, history = _fit_network(
        prepared, network, feed, objective, split, kind, seed=seed, fold=fold
    )
    given = objective.given if kind == "fusion" else ((kind,),)
    cpu = torch.device("cpu")
    seen, unseen = (
        features_for(network, feed, side, given).to(cpu) for side in (watched, held_out)
    )
    head = network.cpu().head
    head.tune(answers_of(head, seen, given), objective.targets[watched], objective.validation_loss)
    if kind == "fusion" and prepared.recipe.fusion.hybrid and not isinstance(head, LateFusion):
        if network.encoders:  # its members read what the bundle's encoders say
            everything = torch.arange(len(prepared.dataset.items))
            own = features_for(network, feed, everything, given)
            prepared = replace(prepared, features=own)
        head = _hybrid(prepared, head, objective, fold, seed)
    return _Learned(
        head, epochs, history, seen, unseen, network.text_encoder, network.image_encoder
    )


def _hybrid(
    prepared: Prepared, head: FusionHead, objective: Objective, fold: int, seed: int
) -> FusionHead:
    """A hybrid of a head and of models of one modality, which are trained from the same seed."""
    split = prepared.split(fold)
    for modality in BOTH:
        with reproducible(seed):
            one = make_head(prepared, modality, objective.outputs)
            fitted = fit_head(prepared, one, objective, split, modality)
        prepared._alone[fold, seed, modality] = _Alone(one, *fitted)
    members = (prepared._alone[fold, seed, modality].head for modality in BOTH)
    hybrid = HybridFusion(head, *deepcopy(tuple(members)))
    watched = torch.from_numpy(split.validation)
    answers = answers_of(hybrid, prepared.features.select(watched), objective.given)
    hybrid.tune(answers, objective.targets[watched], objective.validation_loss)
    return hybrid


def fit_head(
    prepared: Prepared,
    head: FusionHead,
    objective: Objective,
    split: Split,
    kind: HeadKind = "fusion",
) -> tuple[int, tuple[Stage, ...]]:
    """Train a head on cached features through all of its stages; tune it on the validation side.

    Args:
        prepared: What it is trained on, and how.
        head: Ends with its best weights, in evaluation mode.
        objective: What is minimised.
        split: Which items are trained on, and which are watched; items may be there twice.
        kind: What the head reads.

    Returns:
        The epoch that was best, from 1, of several stages the last such; and all epochs.
    """
    network = FusionNetwork(head, None, None, prepared.image.preprocessing)
    epochs, history = _fit_network(
        prepared, network, _make_feed(prepared, network), objective, split, kind
    )
    watched = torch.from_numpy(split.validation)
    given = objective.given if kind == "fusion" else ((kind,),)
    answers = answers_of(head, prepared.features.select(watched), given)
    head.tune(answers, objective.targets[watched], objective.validation_loss)
    return epochs, history


def _fit_network(
    prepared: Prepared,
    network: FusionNetwork,
    feed: Feed,
    objective: Objective,
    split: Split,
    kind: HeadKind,
    *,
    seed: int = 0,
    fold: int | None = None,
) -> tuple[int, tuple[Stage, ...]]:
    """Train through all stages of a head; with a `fold`, checkpoints are kept."""
    table, head, fitted = prepared.recipe.optimiser, network.head, []
    for number, losses in enumerate(_stages(prepared.recipe, head, kind)):
        title = f"{kind}, seed {seed}"
        run = Run(losses, seed, processes(), title=title)
        if fold is not None:
            name = f"{kind}-{seed}-{number}"
            run = replace(run, checkpoint=_checkpoint(prepared, fold, network, name))
        own = table
        if table.head_epochs and network.encoders and _is_kept(run):
            run = replace(run, start_counts=True)  # and the head was trained before it was kept
        elif table.head_epochs and network.encoders:
            frozen = Feed(prepared.features, feed.ids)
            alone = replace(run, checkpoint=None, title=f"{title}, head alone")
            fit(network.without_encoders(), frozen, objective, split, table.of_head, alone)
            run = replace(run, start_counts=True)
        elif table.head_epochs:  # a model of the modality whose encoder is frozen
            own = table.of_head
        fitted.append(fit(network, feed, objective, split, own, run))
    network.merge()
    return max(one.best_epoch for one in fitted), tuple(one.history for one in fitted)


def _is_kept(run: Run) -> bool:
    """Whether a training goes on from a checkpoint."""
    there = run.checkpoint is not None and run.checkpoint.load() is not None
    return run.processes.share(there)


def _make_network(prepared: Prepared, kind: HeadKind, outputs: int) -> FusionNetwork:
    recipe = prepared.recipe
    head = make_head(prepared, kind, outputs)
    text, image = (
        None if table.train == "none" or kind not in ("fusion", modality)
        # Only here is the module asked for: a frozen encoder need not even be loaded.
        else trainable_copy(encoder.module, table, f"{modality}_encoder")
        for modality, encoder, table in (
            ("text", prepared.text, recipe.text_encoder),
            ("image", prepared.image, recipe.image_encoder),
        )
    )  # fmt: skip
    return FusionNetwork(head, text, image, prepared.image.preprocessing)


def _make_feed(prepared: Prepared, network: FusionNetwork) -> Feed:
    recipe, dataset = prepared.recipe, prepared.dataset
    texts = pictures = None
    if network.text_encoder is not None:
        texts = Texts.of(
            dataset,
            truncating_tokenizer(prepared.text),
            prepared.text.preprocessing,
            token_dropout=recipe.augmentation.token_dropout,
            sequences=prepared.text.pooling == "none",
        )
    if network.image_encoder is not None:
        pictures = Pictures(dataset.items, prepared.image.preprocessing, recipe.augmentation)
    ids = [item.id for item in dataset.items]
    return Feed(prepared.features, ids, texts, pictures, recipe.loader)


def _checkpoint(prepared: Prepared, fold: int, network: FusionNetwork, name: str) -> Checkpoint:
    """The checkpoint of a training that starts with these very weights."""
    start = content_key(
        part
        for key, tensor in network.learned().items()
        for part in (key.encode(), tensor.cpu().numpy().tobytes())
    )
    path = prepared.checkpoints(fold) / f"{name}-{processes().count}-{start[:16]}.safetensors"
    return Checkpoint(path, prepared.recipe.optimiser.checkpoint_seconds)


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
    if kind != "fusion" and prepared.recipe.task != "tagging":
        return _single_head(prepared, kind, outputs)
    make = HEADS[table.strategy]
    extra: dict[str, Any] = {"task": prepared.recipe.task} if make is LateFusion else {}
    made = make(
        **extra,
        text_features=prepared.features.text.shape[-1],
        image_features=prepared.features.image.shape[-1],
        labels=outputs,
        dropout=table.dropout,
        modality_dropout=table.modality_dropout,
        **{name: getattr(table, name) for name in make.settings},
    )
    if prepared.start is not None and kind == "fusion":
        prepared.start.apply(made)
    return made


def _single_head(prepared: Prepared, kind: Modality, outputs: int) -> SingleModalityHead:
    features = prepared.features.text if kind == "text" else prepared.features.image
    return SingleModalityHead(
        text_features=features.shape[-1] if kind == "text" else 0,
        image_features=features.shape[-1] if kind == "image" else 0,
        labels=outputs,
        dropout=prepared.recipe.fusion.dropout,
    )
