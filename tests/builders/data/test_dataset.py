"""Data sets: label order and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tritium_builders.data import Dataset, Item
from tritium_builders.errors import RecipeError

ITEMS = tuple(
    Item(id=str(index), text=f"text {index}", image=b"png", label=label, group=f"g{index}")
    for index, label in enumerate(["pear", "apple", "pear"])
)


def dataset(items: tuple[Item, ...]) -> Dataset:
    return Dataset("fruit", items, origin="here", licence="CC0")


def test_labels_are_sorted_and_targets_follow_them() -> None:
    fruit = dataset(ITEMS)
    assert fruit.labels == ("apple", "pear")
    assert fruit.targets == (1, 0, 1)
    assert fruit.groups == ("g0", "g1", "g2")


def test_the_content_hash_follows_texts_and_pictures() -> None:
    fruit = dataset(ITEMS)
    relabelled = dataset((*ITEMS[:2], replace(ITEMS[2], label="plum")))
    assert relabelled.content_hash == fruit.content_hash
    for change in ({"text": "other"}, {"image": b"other"}):
        changed = dataset((*ITEMS[:2], replace(ITEMS[2], **change)))
        assert changed.content_hash != fruit.content_hash
    assert dataset(ITEMS[::-1]).content_hash != fruit.content_hash


def test_a_sample_carries_the_label_only_when_asked() -> None:
    assert ITEMS[0].sample(labelled=True).label == "pear"
    assert ITEMS[0].sample(labelled=False).label is None


def test_what_cannot_be_trained_on_is_refused() -> None:
    with pytest.raises(RecipeError, match="fruit: id '1' is used twice"):
        dataset((*ITEMS, replace(ITEMS[1], text="other")))
    with pytest.raises(RecipeError, match="1 labels; a classifier needs two"):
        dataset(ITEMS[:1])
    with pytest.raises(RecipeError, match="0 labels"):
        dataset(())
