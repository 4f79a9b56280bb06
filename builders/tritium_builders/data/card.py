"""Data cards: what a data set consists of, kept in the bundle as data_card.json."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from tritium_builders.data.dataset import Dataset, ImageFile, Item, Side
from tritium_builders.data.manifest import LoadedManifest
from tritium_builders.data.targets import entity_labels, held_labels

if TYPE_CHECKING:
    from rich.console import RenderableType

NAMED = 1000
"""How many skipped pictures a card names; it counts all."""
SIDES: tuple[Side, ...] = ("train", "validation", "test")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Spread(_Record):
    """How a number is spread over the items; each figure is one that occurs."""

    min: int
    median: int
    p95: int
    """95 % of the items have at most this."""
    max: int

    @classmethod
    def of(cls, values: Sequence[int]) -> Spread:
        """Summarise at least one value."""
        low, median, high, top = (
            int(value) for value in np.percentile(values, (0, 50, 95, 100), method="inverted_cdf")
        )
        return cls(min=low, median=median, p95=high, max=top)


class LabelCounts(_Record):
    """How many items a label has on each side."""

    train: int
    validation: int
    test: int
    share: float
    """Of all items, 0 to 1."""


class Texts(_Record):
    """Lengths of texts."""

    characters: Spread
    tokens: Spread
    """By the text encoder's tokenizer, special tokens included, before any cut."""
    max_tokens: int
    """What the text encoder takes; longer texts are cut."""
    cut: int
    """How many texts are longer."""


class Images(_Record):
    """Sizes and formats of pictures."""

    formats: dict[str, int]
    width: Spread
    """Pixels, as `height`."""
    height: Spread
    bytes: Spread


class SkippedPicture(_Record):
    """An item that was left out because of its picture."""

    line: int
    """Line or row of the manifest."""
    image: str
    reason: str


class Duplicates(_Record):
    """What occurs more than once; what is on two sides makes the accuracy look better."""

    equal_pairs: int
    """Items whose text and picture an earlier item has. They share a group."""
    contradictions: int
    """Pairs that occur with two labels."""
    pictures_on_two_sides: int
    """Different pictures (by their bytes) that occur in two splits or more."""
    texts_on_two_sides: int
    """Likewise texts, apart from case, blanks and Unicode's forms."""
    examples: list[list[str]]
    """Up to five sets of ids that share a picture or a text across splits."""


class Previous(_Record):
    """The bundle that one continues."""

    bundle: str
    """Its folder, as it was named."""
    hash: str
    app: str


class DataCard(_Record):
    """The content of data_card.json."""

    schema_version: Literal[1] = 1
    data: str
    """The manifest, as the recipe names it."""
    data_sha256: str
    """Of the manifest and all pictures."""
    licence: str
    items: int
    splits: Literal["manifest", "folds"]
    """Who says which items are held out."""
    sides: dict[Side, int]
    labels: dict[str, LabelCounts]
    imbalance: float
    """Items of the largest label for one of the smallest."""
    texts: Texts
    images: Images
    skipped: int
    skipped_pictures: list[SkippedPicture]
    """The first thousand."""
    duplicates: Duplicates
    notes: list[str]
    """What somebody should look at."""
    previous: Previous | None = None
    """The bundle whose data this adds to."""

    def to_json(self) -> bytes:
        """Write data_card.json, the same bytes for the same data."""
        return (self.model_dump_json(indent=2) + "\n").encode()


def make_card(
    loaded: LoadedManifest,
    *,
    sides: Sequence[Side],
    tokens: Sequence[int],
    max_tokens: int,
    notes: Sequence[str] = (),
) -> DataCard:
    """Describe a data set.

    Args:
        loaded: The data set.
        sides: For each item where it is in the split that is trained.
        tokens: For each item the length of its text in tokens, before any cut.
        max_tokens: What the text encoder takes.
        notes: More for `DataCard.notes`.
    """
    dataset = loaded.dataset
    labels = _labels(dataset, sides)
    totals = [counts.train + counts.validation + counts.test for counts in labels.values()] or [1]
    duplicates = _duplicates(dataset.items, sides)
    cut = sum(length > max_tokens for length in tokens)
    facts = loaded.facts
    own = _notes(labels, totals, duplicates, cut, max_tokens, len(loaded.skipped))
    return DataCard(
        data=dataset.name,
        data_sha256=loaded.data_hash,
        licence=dataset.licence,
        items=len(dataset.items),
        splits="manifest" if dataset.has_sides else "folds",
        sides={side: sum(one == side for one in sides) for side in SIDES},
        labels=labels,
        imbalance=round(max(totals) / max(min(totals), 1), 2),
        texts=Texts(
            characters=Spread.of([len(item.text) for item in dataset.items]),
            tokens=Spread.of(tokens),
            max_tokens=max_tokens,
            cut=cut,
        ),
        images=Images(
            formats=dict(sorted(Counter(fact.format for fact in facts).items())),
            width=Spread.of([fact.width for fact in facts]),
            height=Spread.of([fact.height for fact in facts]),
            bytes=Spread.of([fact.bytes for fact in facts]),
        ),
        skipped=len(loaded.skipped),
        skipped_pictures=[
            SkippedPicture(line=one.line, image=one.image, reason=one.reason)
            for one in loaded.skipped[:NAMED]
        ],
        duplicates=duplicates,
        notes=[*notes, *own],
    )


def normalised(text: str) -> str:
    """What two texts have in common that only differ in case, blanks or Unicode's forms."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def _labels(dataset: Dataset, sides: Sequence[Side]) -> dict[str, LabelCounts]:
    counts = Counter(
        (label, side)
        for item, side in zip(dataset.items, sides, strict=True)
        for label in held_labels(item, dataset.task)
    )
    names: Iterable[str] = dataset.labels
    if dataset.task in {"regression", "embedding"}:
        names = ()
    if dataset.task == "tagging":
        names = sorted(entity_labels(dataset.items))
    return {
        label: LabelCounts(
            train=counts[label, "train"],
            validation=counts[label, "validation"],
            test=counts[label, "test"],
            share=round(sum(counts[label, side] for side in SIDES) / len(dataset.items), 4),
        )
        for label in names
    }


def _duplicates(items: Sequence[Item], sides: Sequence[Side]) -> Duplicates:
    labels: dict[str, set[object]] = defaultdict(set)
    for item in items:
        labels[item.content_hash].add((item.label, item.target))
    pictures = _on_two_sides(items, sides, _picture)
    texts = _on_two_sides(items, sides, lambda item: normalised(item.text))
    return Duplicates(
        equal_pairs=len(items) - len(labels),
        contradictions=sum(len(own) > 1 for own in labels.values()),
        pictures_on_two_sides=len(pictures),
        texts_on_two_sides=len(texts),
        examples=[[item.id for item in found[:5]] for found in (*pictures, *texts)[:5]],
    )


def _picture(item: Item) -> Hashable:
    return item.image.sha256 if isinstance(item.image, ImageFile) else item.image


def _on_two_sides(
    items: Sequence[Item], sides: Sequence[Side], key: Callable[[Item], Hashable]
) -> list[list[Item]]:
    found: dict[Hashable, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        found[key(item)].append(index)
    return [
        [items[index] for index in indices]
        for indices in found.values()
        if len({sides[index] for index in indices}) > 1
    ]


def _notes(
    labels: dict[str, LabelCounts],
    totals: Sequence[int],
    duplicates: Duplicates,
    cut: int,
    max_tokens: int,
    skipped: int,
) -> list[str]:
    notes = [
        f"label {label!r} has no item in {side}"
        for label, counts in labels.items()
        for side, count in (("validation", counts.validation), ("test", counts.test))
        if count == 0
    ]
    if max(totals) > 10 * min(totals):
        notes.append(f"the largest label has {max(totals)} items, the smallest {min(totals)}")
    for count, what in (
        (skipped, "items were left out because of their pictures"),
        (cut, f"texts are longer than {max_tokens} tokens and are cut"),
        (duplicates.contradictions, "pairs of text and picture occur with two labels"),
        (duplicates.pictures_on_two_sides, "pictures are in two splits; give them one group"),
        (duplicates.texts_on_two_sides, "texts are in two splits; give them one group"),
    ):
        if count:
            notes.append(f"{count} {what}")
    return notes


def render_card(card: DataCard) -> RenderableType:
    """Lay the card out in short for a terminal."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    given = "given by the manifest" if card.splits == "manifest" else "by folds"
    labels = Table()
    labels.add_column("label")
    for column in (*SIDES, "share"):
        labels.add_column(column, justify="right")
    for label, counts in card.labels.items():
        own = (str(counts.train), str(counts.validation), str(counts.test))
        labels.add_row(escape(label), *own, f"{counts.share:.1%}")
    labels.add_section()
    labels.add_row("all", *(str(card.sides[side]) for side in SIDES), "100.0%")
    spreads = Table("", "min", "median", "95 %", "max")
    for name, spread in (
        ("characters", card.texts.characters),
        ("tokens", card.texts.tokens),
        ("width, pixels", card.images.width),
        ("height, pixels", card.images.height),
        ("bytes", card.images.bytes),
    ):
        values = (spread.min, spread.median, spread.p95, spread.max)
        spreads.add_row(name, *(str(value) for value in values))
    formats = ", ".join(f"{count} {name}" for name, count in card.images.formats.items())
    skipped = [
        f"left out: line {one.line}, {one.image}: {one.reason}" for one in card.skipped_pictures[:5]
    ]
    lines = [f"pictures: {formats}", *skipped, *(f"note: {note}" for note in card.notes)]
    headline = escape(f"{card.data}: {card.items} items, splits {given}")
    return Group(headline, labels, spreads, *(escape(line) for line in lines))
