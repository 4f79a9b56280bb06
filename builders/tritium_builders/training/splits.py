"""Grouped, stratified folds."""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from dataclasses import dataclass
from importlib import metadata

import numpy as np
import numpy.typing as npt

from tritium_builders.data.cache import cached_files, content_key
from tritium_builders.data.dataset import Dataset
from tritium_builders.errors import RecipeError, needs

Indices = npt.NDArray[np.int64]
_FILE = "split.json"
_SIDES = ("train", "validation", "held_out")


@dataclass(frozen=True)
class Split:
    """Three disjoint sets of indices into a data set; no group is in two of them."""

    train: Indices
    validation: Indices
    """Watched by early stopping."""
    held_out: Indices
    """Never seen in training; accuracy figures come from here."""

    @classmethod
    def given(cls, dataset: Dataset) -> Split:
        """The sides that the data's owner gave."""
        sides = np.array([item.side for item in dataset.items])
        train, validation, held_out = (
            np.flatnonzero(sides == side).astype(np.int64)
            for side in ("train", "validation", "test")
        )
        return cls(train, validation, held_out)


def split_dataset(
    dataset: Dataset, *, fold: int, folds: int, validation_folds: int, seed: int
) -> Split:
    """Hold one fold out and carve a validation set from the others.

    Over all values of `fold`, every item is held out exactly once.

    Args:
        dataset: The items, with labels and groups.
        fold: Which fold is held out, from 0.
        folds: How many there are.
        validation_folds: One n-th of the training side becomes the validation set.
        seed: Decides which items are in which fold.

    Raises:
        RecipeError: when a label has too few groups to be in every fold, or groups are so large
            that a side would be empty.
        MissingExtraError: when scikit-learn is not installed.
    """
    if dataset.task == "classification":
        _check_label_groups(dataset, folds + validation_folds)
    how = [fold, folds, validation_folds, seed, dataset.task]
    described = json.dumps([how, dataset.labels, _strata(dataset), dataset.groups])
    key = content_key([described.encode(), metadata.version("scikit-learn").encode()])

    def compute() -> dict[str, bytes]:
        split = _split(dataset, fold, folds, validation_folds, seed)
        sides = {name: getattr(split, name).tolist() for name in _SIDES}
        return {_FILE: json.dumps(sides).encode()}

    # Kept, because scikit-learn takes seconds to be imported.
    sides = json.loads(cached_files("split", key, compute)[_FILE])
    return Split(*(np.array(sides[name], dtype=np.int64) for name in _SIDES))


def _split(dataset: Dataset, fold: int, folds: int, validation_folds: int, seed: int) -> Split:
    everything = np.arange(len(dataset.items), dtype=np.int64)
    training_side, held_out = _hold_out(dataset, everything, fold, folds, seed)
    train, validation = _hold_out(dataset, training_side, 0, validation_folds, seed)
    split = Split(train, validation, held_out)
    _check_sides(dataset, split)
    return split


def _check_sides(dataset: Dataset, split: Split) -> None:
    """Refuse what groups of several labels, or very large ones, leave of a side."""
    trained = {dataset.items[index].label for index in split.train}
    wanted = dataset.labels if dataset.task == "classification" else ()
    lacking = [label for label in wanted if label not in trained]
    if lacking or not (len(split.validation) and len(split.held_out)):
        what = f"no item of {lacking[0]!r} would be trained on" if lacking else "a side is empty"
        raise _unsplittable(dataset, what)


def _unsplittable(dataset: Dataset, reason: str) -> RecipeError:
    return RecipeError(
        f"{dataset.name}: its groups cannot be split into folds ({reason}); make groups smaller, "
        "add items, or lower split.folds and split.validation_folds"
    )


def _hold_out(
    dataset: Dataset, indices: Indices, fold: int, folds: int, seed: int
) -> tuple[Indices, Indices]:
    with needs("train"):
        from sklearn.model_selection import StratifiedGroupKFold

    classes = dataset.targets if dataset.task == "classification" else _strata(dataset)
    targets = np.asarray(classes)[indices]
    groups = np.asarray(dataset.groups)[indices]
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # our own check above is the stricter one
        try:
            rest, taken = list(splitter.split(indices, targets, groups))[fold]
        except ValueError as error:  # fewer groups, or items of every label, than folds
            raise _unsplittable(dataset, str(error)) from error
    return indices[rest], indices[taken]


def _strata(dataset: Dataset) -> list[str]:
    return [item.label for item in dataset.items]


def _check_label_groups(dataset: Dataset, least: int) -> None:
    groups: dict[str, set[str]] = defaultdict(set)
    for item in dataset.items:
        groups[item.label].add(item.group)
    label, own = min(groups.items(), key=lambda entry: (len(entry[1]), entry[0]))
    if len(own) < least:
        raise RecipeError(
            f"{dataset.name}: label {label!r} has {len(own)} groups of items and needs {least}; "
            "add items, or lower split.folds and split.validation_folds"
        )
