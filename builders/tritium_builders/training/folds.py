"""One training: a head, on features of frozen encoders or above encoders that learn with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tritium_builders.data import Dataset
from tritium_builders.data.cache import content_key
from tritium_builders.data.card import DataCard
from tritium_builders.models import (
    FUSION_HEADS,
    FusionHead,
    LoadedImageEncoder,
    LoadedTextEncoder,
    SingleModalityHead,
)
from tritium_builders.samples import modalities_key
from tritium_builders.training.checkpoints import Checkpoint, checkpoints_folder
from tritium_builders.training.distributed import processes
from tritium_builders.training.features import Features, compute_features, truncating_tokenizer
from tritium_builders.training.fit import Epoch, HeadKind, Run, fit, reproducible
from tritium_builders.training.inputs import Feed, Pictures, Texts
from tritium_builders.training.network import ENTRY_POINTS, FusionNetwork, answers_of
from tritium_builders.training.objective import make_objective
from tritium_builders.training.own_data import load_data, load_encoders, make_split
from tritium_builders.training.recipe import Recipe
from tritium_builders.training.splits import Split
from tritium_builders.training.trainable import trainable_copy


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

    def checkpoints(self, fold: int) -> Path:
        """Where trainings keep how far they are, until the bundle is written."""
        recipe = self.recipe.model_dump_json(exclude={"out", "seeds", "samples"})
        split, targets = self.split(fold), repr(self.dataset.targets)
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
    history: tuple[tuple[Epoch, ...], ...] = ()
    """The epochs of each stage of training."""
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
    text, image = load_encoders(recipe)
    with processes().first_goes_ahead():
        data = load_data(recipe, folder, text, image, every_fold=every_fold)
        features = compute_features(data.dataset, text, image)
    prepared = Prepared(recipe, data.dataset, text, image, features, data.card)
    if data.split is not None:
        prepared._splits[recipe.split.fold] = data.split
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
    split = prepared.split(fold)
    recipe = prepared.recipe
    objective = make_objective(recipe, prepared.dataset)
    company = processes()
    device = company.device if recipe.fine_tunes else torch.device("cpu")
    # Small heads are as fast on one core; encoders take all that there are.
    threads = torch.get_num_threads() if recipe.fine_tunes else 1
    with reproducible(seed, threads=threads, device=device):
        network = _make_network(prepared, kind, objective.outputs).to(device)
        feed = _make_feed(prepared, network)
        fitted = []
        for stage, losses in enumerate(network.head.stages(recipe.fusion.absent_loss)):
            name, title = f"{kind}-{seed}-{stage}", f"{kind}, seed {seed}"
            own = Run(losses, seed, company, _checkpoint(prepared, fold, network, name), title)
            table = recipe.optimiser
            if table.head_epochs and network.encoders:
                frozen = Feed(prepared.features, feed.ids)
                alone = replace(own, checkpoint=None, title=f"{title}, head alone")
                fit(network.without_encoders(), frozen, objective, split, table.of_head, alone)
                own = replace(own, start_counts=True)
            elif table.head_epochs:  # a model of the modality whose encoder is frozen
                table = table.of_head
            fitted.append(fit(network, feed, objective, split, table, own))
        network.merge()
        given = [one for one in ENTRY_POINTS if kind == "fusion" or one == (kind,)]
        watched = torch.from_numpy(split.validation)
        targets = objective.targets[watched]
        network.head.tune(answers_of(network, feed, watched, given), targets)
        validation = next(iter(answers_of(network, feed, watched, given).values()))
        held_out = answers_of(network, feed, torch.from_numpy(split.held_out), given)
        network.cpu()
    return TrainedFold(
        fold=fold,
        seed=seed,
        head=network.head,
        epochs=max(one.best_epoch for one in fitted),
        held_out=tuple(split.held_out.tolist()),
        probabilities={
            modalities_key(given): objective.answers(logits).numpy()
            for given, logits in held_out.items()
        },
        validation_accuracy=objective.score(validation, targets),
        validation_loss=float(objective.validation_loss(validation, targets)),
        history=tuple(one.history for one in fitted),
        text_encoder=network.text_encoder,
        image_encoder=network.image_encoder,
    )


def _make_network(prepared: Prepared, kind: HeadKind, outputs: int) -> FusionNetwork:
    recipe = prepared.recipe
    head = _make_head(prepared, kind, outputs)
    text, image = (
        None if table.train == "none" or kind not in ("fusion", modality)
        else trainable_copy(module, table, f"{modality}_encoder")
        for modality, module, table in (
            ("text", prepared.text.module, recipe.text_encoder),
            ("image", prepared.image.module, recipe.image_encoder),
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
            sequences=prepared.text.module.pooling == "none",
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
