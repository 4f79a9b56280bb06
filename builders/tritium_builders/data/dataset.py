"""A data set in memory: labelled pairs, and which of them belong together."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from tritium_builders.errors import RecipeError
from tritium_builders.samples import Sample


@dataclass(frozen=True)
class Item:
    """One labelled text + image pair."""

    id: str
    text: str
    image: bytes
    """An encoded picture (JPEG, PNG, WebP, GIF, BMP)."""
    label: str
    group: str
    """Near-duplicates share a group, and a group is never on both sides of a split."""

    def sample(self, *, labelled: bool) -> Sample:
        """Turn the item into a bundle's sample, with or without its label."""
        return Sample(self.id, self.text, self.image, self.label if labelled else None)


@dataclass(frozen=True)
class Dataset:
    """Labelled pairs with their origin.

    Raises:
        RecipeError: when an id is used twice, or there are fewer than two labels.
    """

    name: str
    items: tuple[Item, ...]
    origin: str
    """Where the data comes from, with versions."""
    licence: str

    def __post_init__(self) -> None:
        repeated = [
            id_ for id_, count in Counter(item.id for item in self.items).items() if count > 1
        ]
        if repeated:
            raise RecipeError(f"{self.name}: id {repeated[0]!r} is used twice; make ids unique")
        if len(self.labels) < 2:
            raise RecipeError(f"{self.name}: {len(self.labels)} labels; a classifier needs two")

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """All labels, sorted: the order of every classifier's probabilities."""
        return tuple(sorted({item.label for item in self.items}))

    @cached_property
    def targets(self) -> tuple[int, ...]:
        """For each item the index of its label."""
        index = {label: number for number, label in enumerate(self.labels)}
        return tuple(index[item.label] for item in self.items)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """For each item its group."""
        return tuple(item.group for item in self.items)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of all texts and pictures in order; labels and groups are not part of it."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(item.sample(labelled=False).content_hash.encode())
        return digest.hexdigest()
