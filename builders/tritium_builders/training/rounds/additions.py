"""New items beside old ones: which may be used, and on which side each of them is.

Old items stay where the recipe's split puts them. A new item that is like one that is watched or
held out is left out; one that is like one that is trained on is trained on. The others are put on a
side by a hash of their content. One file comes after the other, so that what a later one holds
moves nothing of an earlier one: every item is on the same side in every round.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tritium_builders.data.card import normalised
from tritium_builders.data.dataset import Dataset, ImageFile, Item, Side
from tritium_builders.data.manifest import LoadedManifest, ManifestSource, load_manifest
from tritium_builders.errors import RecipeError
from tritium_builders.training.recipe import ManifestTable, Recipe, SplitTable
from tritium_builders.training.splits import Indices, Split

Reason = Literal["known", "contradicts", "like_held_out", "like_validation"]
STRICTEST: tuple[Side, ...] = ("test", "validation", "train")
"""Which side wins where items that belong together were given several."""


@dataclass(frozen=True)
class Placed:
    """New items that may be used."""

    items: tuple[Item, ...]
    sides: tuple[Side, ...]
    """Of each of them."""
    left_out: Counter[Reason]


def read_additions(
    paths: Sequence[Path], recipe: Recipe, known: Sequence[str], spec: Mapping[str, Any]
) -> list[LoadedManifest]:
    """Read the manifests of `--data`; ids get the file's name in front.

    Args:
        paths: Manifests; pictures' paths start in their folders.
        recipe: Says which labels there may be, and what becomes of bad pictures.
        known: The labels that there are.
        spec: `ImagePreprocessing.servable_spec()` of the encoder.

    Raises:
        RecipeError: with file, line, column and fix of the first ten problems.
        MissingExtraError: when pyarrow is not installed and one is a Parquet file.
    """
    table = recipe.data if isinstance(recipe.data, ManifestTable) else None
    found = []
    for path in paths:
        source = ManifestSource(
            path=path,
            images=path.parent,
            name=str(path),
            skip_bad_images=table is not None and table.bad_images == "skip",
            labels=tuple((table and table.labels) or ()),
            licence="not stated" if table is None else table.licence,
            adds_to=tuple(known),
            skip_unlabelled=True,
        )
        loaded = load_manifest(source, spec, least_groups=0)
        items = tuple(_named(item, path) for item in loaded.dataset.items)
        found.append(replace(loaded, dataset=replace(loaded.dataset, items=items)))
    return found


def _named(item: Item, path: Path) -> Item:
    """Without a group of its own, an item is near nothing: its line is no name for that."""
    group = item.group if item.group.startswith("group ") else f"{path.name}: {item.group}"
    return replace(item, id=f"{path.name}: {item.id}", group=group)


def place(
    old: Dataset,
    split: Split,
    files: Sequence[Sequence[Item]],
    table: SplitTable,
    earlier: Iterable[tuple[str, bytes]] = (),
) -> Placed:
    """Say which new items are used, and on which side.

    Args:
        old: The recipe's data.
        split: Its sides.
        files: The new items, file by file; those of earlier rounds first.
        table: How many of the new ones are held out and watched: one n-th each, as of the old.
        earlier: Texts and pictures that an earlier round held out.
    """
    placing = _Placing(table)
    known: dict[Side, Indices] = {
        "train": split.train, "validation": split.validation, "test": split.held_out
    }  # fmt: skip
    for side, indices in known.items():
        for index in indices.tolist():
            placing.note(old.items[index], side)
    placing.hold_out(earlier)
    kept: list[Item] = []
    sides: list[Side] = []
    for items in files:
        own, own_sides = placing.add(items)
        kept += own
        sides += own_sides
    return Placed(tuple(kept), tuple(sides), placing.left_out)


class _Placing:
    """What is known of all items by now."""

    def __init__(self, table: SplitTable) -> None:
        self.left_out: Counter[Reason] = Counter()
        self._table = table
        self._near: dict[str, set[Side]] = {}
        self._labels: dict[tuple[str, str], str] = {}
        self._trained: set[str] = set()
        self._earlier: set[tuple[str, str]] = set()

    def note(self, item: Item, side: Side) -> None:
        for key in _keys(item):
            self._near.setdefault(key, set()).add(side)
        self._labels[_pair(item)] = item.label
        if side == "train":
            self._trained.add(item.label)

    def hold_out(self, earlier: Iterable[tuple[str, bytes]]) -> None:
        for text, picture in earlier:
            digest = hashlib.sha256(picture).hexdigest()
            self._earlier.add((text, digest))
            for key in _keys_of(text, digest):
                self._near.setdefault(key, set()).add("test")

    def add(self, items: Sequence[Item]) -> tuple[list[Item], list[Side]]:
        """Place the items of one file."""
        kept: dict[tuple[str, str], Item] = {}
        for item in items:
            reason = self._reason(item, kept.get(_pair(item)))
            if reason is None:
                kept[_pair(item)] = item
            else:
                self.left_out[reason] += 1
        own = list(kept.values())
        sides: list[Side] = ["train"] * len(own)
        for indices in _together(own):
            side = self._side([own[index] for index in indices])
            for index in indices:
                sides[index] = side
                if side == "train":
                    self._trained.add(own[index].label)
        for item, side in zip(own, sides, strict=True):
            self.note(item, side)
        return own, sides

    def _reason(self, item: Item, same: Item | None) -> Reason | None:
        """Why an item is left out; None: it is not."""
        label = self._labels.get(_pair(item)) if same is None else same.label
        if label is not None:
            return "known" if label == item.label else "contradicts"
        if _pair(item) in self._earlier:  # it is one of those itself
            return None
        near = set().union(*(self._near.get(key, set()) for key in _keys(item)))
        if "test" in near:
            return "like_held_out"
        return "like_validation" if "validation" in near else None

    def _side(self, items: Sequence[Item]) -> Side:
        """The side of items that belong together."""
        if any(_pair(item) in self._earlier for item in items):
            return "test"
        if any(key in self._near for item in items for key in _keys(item)):
            return "train"  # what is near the other sides was left out
        given = _given(items)
        if given is None and any(item.label not in self._trained for item in items):
            return "train"  # a label that nothing is trained on could never be answered
        return given or _by_hash(items, self._table)


def _given(items: Sequence[Item]) -> Side | None:
    given = {item.side for item in items}
    return next((side for side in STRICTEST if side in given), None)


def _by_hash(items: Sequence[Item], table: SplitTable) -> Side:
    """A side for items that belong together, the same whatever else there is."""
    digest = min(
        hashlib.sha256("\0".join((str(table.seed), *_pair(item))).encode()).digest()
        for item in items
    )
    share = int.from_bytes(digest[:8], "big") / 2**64
    held_out = 1 / table.folds
    if share < held_out:
        return "test"
    return "validation" if share - held_out < (1 - held_out) / table.validation_folds else "train"


def _together(items: Sequence[Item]) -> list[list[int]]:
    """Indices of items that share a group, a picture or a text, directly or through others."""
    parent = list(range(len(items)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[str, int] = {}
    for index, item in enumerate(items):
        for key in _keys(item):
            parent[root(index)] = root(first.setdefault(key, index))
    sets: dict[int, list[int]] = {}
    for index in range(len(items)):
        sets.setdefault(root(index), []).append(index)
    return list(sets.values())


def _keys(item: Item) -> list[str]:
    """What near-duplicates have in common: a group, a picture, or a text but for its form."""
    return [f"group {item.group}", *_keys_of(item.text, picture_hash(item))]


def _keys_of(text: str, picture: str) -> list[str]:
    return [f"picture {picture}", f"text {normalised(text)}"]


def _pair(item: Item) -> tuple[str, str]:
    return item.text, picture_hash(item)


def picture_hash(item: Item) -> str:
    """SHA-256 of the encoded picture."""
    if isinstance(item.image, ImageFile):
        return item.image.sha256
    return hashlib.sha256(item.image).hexdigest()


def require_any(placed: Placed, files: Sequence[LoadedManifest]) -> None:
    """Refuse to go on with nothing new.

    Raises:
        RecipeError: saying what became of the new items.
    """
    if placed.items:
        return
    counts = ", ".join(f"{count} {reason}" for reason, count in placed.left_out.items())
    names = ", ".join(loaded.dataset.name for loaded in files)
    raise RecipeError(f"{names}: holds nothing to train on ({counts}); give other items")
