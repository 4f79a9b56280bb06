"""Splits: nothing leaks from one side to another, and every item is held out once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tritium_builders.data import Dataset, Item, load_openmoji
from tritium_builders.errors import RecipeError
from tritium_builders.training.splits import Split, split_dataset


@pytest.fixture(scope="module")
def emojis() -> Dataset:
    return load_openmoji()


@pytest.fixture(scope="module")
def splits(emojis: Dataset) -> list[Split]:
    return [
        split_dataset(emojis, fold=fold, folds=5, validation_folds=8, seed=0) for fold in range(5)
    ]


def test_no_group_and_no_picture_is_on_two_sides(emojis: Dataset, splits: list[Split]) -> None:
    for split in splits:
        sides = (split.train, split.validation, split.held_out)
        for values in (emojis.groups, [item.image for item in emojis.items]):
            held = [{values[index] for index in side} for side in sides]
            assert not held[0] & held[1]
            assert not held[0] & held[2]
            assert not held[1] & held[2]


def test_each_item_is_on_one_side_and_held_out_once(emojis: Dataset, splits: list[Split]) -> None:
    everything = list(range(len(emojis.items)))
    for split in splits:
        assert sorted(np.concatenate([split.train, split.validation, split.held_out])) == everything
    assert sorted(np.concatenate([split.held_out for split in splits])) == everything


def test_labels_are_spread_evenly(emojis: Dataset, splits: list[Split]) -> None:
    whole = Counter(item.label for item in emojis.items)
    for split in splits:
        for side in (split.train, split.validation, split.held_out):
            counts = Counter(emojis.items[index].label for index in side)
            for label, count in whole.items():
                share = counts[label] / len(side)
                assert abs(share - count / len(emojis.items)) < 0.05, label


def test_the_seed_decides(emojis: Dataset, splits: list[Split]) -> None:
    again = split_dataset(emojis, fold=0, folds=5, validation_folds=8, seed=0)
    other = split_dataset(emojis, fold=0, folds=5, validation_folds=8, seed=1)
    assert np.array_equal(again.held_out, splits[0].held_out)
    assert not np.array_equal(other.held_out, splits[0].held_out)


def test_a_label_with_too_few_groups_is_named() -> None:
    items = tuple(
        Item(f"{label}{index}", f"{label} {index}", b"", label, f"{label}{index // 2}")
        for label, count in (("apple", 60), ("pear", 20))
        for index in range(count)
    )
    fruit = Dataset("fruit", items, origin="", licence="")
    with pytest.raises(RecipeError, match="label 'pear' has 10 groups of items and needs 13"):
        split_dataset(fruit, fold=0, folds=5, validation_folds=8, seed=0)
    split_dataset(fruit, fold=0, folds=5, validation_folds=5, seed=0)


def test_groups_that_no_fold_can_part_are_named() -> None:
    """Both labels in each of four groups, and one of these far larger: it is a side of its own."""
    counts = {"apple": (16, 1, 1, 1), "pear": (2, 1, 1, 1)}
    items = tuple(
        Item(f"{label} {group} {index}", label, b"", label, str(group))
        for label, groups in counts.items()
        for group, count in enumerate(groups)
        for index in range(count)
    )
    fruit = Dataset("fruit", items, origin="", licence="")
    message = r"fruit: its groups cannot be split into folds \(.*\); make groups smaller"
    with pytest.raises(RecipeError, match=message):
        split_dataset(fruit, fold=1, folds=2, validation_folds=2, seed=0)
