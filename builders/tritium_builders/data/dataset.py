"""A data set: labelled pairs, and which of them belong together. Pictures may stay on disk."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from tritium_builders.errors import RecipeError
from tritium_builders.samples import Sample, Target
from tritium_client.contract import Task

Side = Literal["train", "validation", "test"]
"""Trained on; watched by early stopping; held out for the accuracy figures."""


@dataclass(frozen=True)
class ImageFile:
    """A picture that stays on disk until it is needed."""

    path: Path
    sha256: str
    """Of the file when the data set was checked."""

    def read(self) -> bytes:
        """Read the encoded picture.

        Raises:
            RecipeError: when it cannot be read, or is not what was checked.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise RecipeError(
                f"{self.path}: cannot be read any more ({error.strerror}); run again"
            ) from error
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise RecipeError(f"{self.path}: has changed since it was checked; run again")
        return content


@dataclass(frozen=True)
class Item:
    """One labelled text + image pair."""

    id: str
    text: str
    image: bytes | ImageFile
    """An encoded picture (JPEG, PNG, WebP, GIF, BMP), or where it lies."""
    label: str
    """What is right; for other tasks than classification, what items are spread over folds by."""
    group: str
    """Near-duplicates share a group, and a group is never on both sides of a split."""
    side: Side | None = None
    """Where the data's owner put it; None where folds decide."""
    target: Target | None = None
    """What is right where that is no single label: labels, scores, or entities."""

    def read_image(self) -> bytes:
        """The encoded picture.

        Raises:
            RecipeError: when it lies on disk and cannot be read, or has changed.
        """
        return self.image if isinstance(self.image, bytes) else self.image.read()

    @cached_property
    def image_hash(self) -> str:
        """SHA-256 of the encoded picture; reads no file."""
        if isinstance(self.image, ImageFile):
            return self.image.sha256
        return hashlib.sha256(self.image).hexdigest()

    @property
    def content_hash(self) -> str:
        """SHA-256 of text and picture, equal for equal pairs of one data set; reads no file."""
        if isinstance(self.image, bytes):
            return self.sample(labelled=False).content_hash
        return hashlib.sha256(f"{self.text}\0{self.image.sha256}".encode()).hexdigest()

    def sample(self, *, labelled: bool) -> Sample:
        """Turn the item into a bundle's sample, with or without its label."""
        if not labelled:
            return Sample(self.id, self.text, self.read_image())
        if self.target is not None:
            return Sample(self.id, self.text, self.read_image(), target=self.target)
        return Sample(self.id, self.text, self.read_image(), self.label or None)


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
    label_order: tuple[str, ...] = ()
    """The labels in the order that the data's owner gave; none: sorted."""
    task: Task = "classification"
    """What its targets are for."""

    def __post_init__(self) -> None:
        repeated = [
            id_ for id_, count in Counter(item.id for item in self.items).items() if count > 1
        ]
        if repeated:
            raise RecipeError(f"{self.name}: id {repeated[0]!r} is used twice; make ids unique")
        if self.task == "classification" and len(self.labels) < 2:
            raise RecipeError(f"{self.name}: {len(self.labels)} labels; a classifier needs two")

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """All labels, in the order of every classifier's probabilities."""
        if self.label_order or self.task != "classification":
            return self.label_order
        return tuple(sorted({item.label for item in self.items}))

    @cached_property
    def targets(self) -> tuple[int, ...]:
        """For each item the index of its label, of a classification."""
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
            digest.update(item.content_hash.encode())
        return digest.hexdigest()

    @cached_property
    def has_sides(self) -> bool:
        """Whether the data's owner says which items are held out, so that there are no folds."""
        return any(item.side is not None for item in self.items)
