"""Users' own data: a manifest of texts, pictures and labels becomes a data set.

    records.py (the file's format) -> rows.py (each item) -> pictures.py (hash and try every
    picture) -> labels, splits and duplicates here -> Dataset; card.py describes it

All problems of all steps are told together.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tritium_builders.data.dataset import Dataset, ImageFile, Item
from tritium_builders.data.groups import Joined
from tritium_builders.data.pictures import PictureFacts, check_pictures, hash_pictures
from tritium_builders.data.problems import Problems
from tritium_builders.data.records import NAMES, read_records
from tritium_builders.data.rows import (
    Place,
    Row,
    check_label_sets,
    check_labels,
    check_rows,
    check_sides,
)
from tritium_builders.data.targets import (
    TargetColumns,
    entity_labels,
    held_labels,
    labels_of,
    with_strata,
)
from tritium_builders.errors import RecipeError

CLASSES = TargetColumns()
"""A label for each item."""


@dataclass(frozen=True)
class ManifestSource:
    """Where users' own data lies, and how it is to be read."""

    path: Path
    images: Path
    """The pictures' paths start here, and none may lead out of it."""
    name: str
    """What messages and the data card call the manifest: the path as the recipe writes it."""
    skip_bad_images: bool = False
    labels: tuple[str, ...] = ()
    """In the order of the probabilities; none: those that occur, sorted."""
    columns: Mapping[str, str] = field(default_factory=lambda: {name: name for name in NAMES})
    """Our name of a column -> the manifest's."""
    licence: str = "not stated"
    targets: TargetColumns = CLASSES
    """What says what is right."""
    adds_to: tuple[str, ...] = ()
    """Labels of the data that this is added to: none of them needs items here, nor does a split,
    and labels that are not among them come after them."""
    skip_unlabelled: bool = False
    """Leave out items whose label is empty: nobody has got to them yet."""


@dataclass(frozen=True)
class Skipped:
    """An item that was left out because of its picture."""

    line: int
    image: str
    reason: str


@dataclass(frozen=True)
class LoadedManifest:
    """A checked data set, and what its card says besides."""

    dataset: Dataset
    facts: tuple[PictureFacts, ...]
    """Of each item's picture."""
    skipped: tuple[Skipped, ...]
    data_hash: str
    """From `hash_manifest`."""
    unlabelled: int = 0
    """Items that were left out because nobody has labelled them."""


def load_manifest(
    source: ManifestSource, spec: Mapping[str, Any], *, least_groups: int
) -> LoadedManifest:
    """Read a manifest and check all of it, pictures included.

    Args:
        source: Where it lies.
        spec: `ImagePreprocessing.servable_spec()` of the encoder: pictures are tried with the
            decoder that will serve them.
        least_groups: How many groups a label needs where folds decide; not asked for where the
            manifest gives splits.

    Raises:
        RecipeError: with file, line, column and fix of the first ten problems.
        MissingExtraError: when pyarrow is not installed and the manifest is a Parquet file.
    """
    problems, rows, there, unlabelled = _read(source)
    read = len(rows)
    hashed = hash_pictures([row.path for row in rows])
    pictures = [one for one in hashed.values() if isinstance(one, ImageFile)]
    facts = check_pictures(pictures, spec)
    rows, skipped = _without_bad_images(rows, hashed, facts, source, problems)
    items = with_strata(_items(rows, hashed), source.targets.task)
    labels = _check_targets(rows, items, source, problems)
    # Totals are not known while items have problems of their own.
    if "split" in there:
        check_sides(rows, source.columns, problems, whole=not source.adds_to)
        _check_pairs(rows, items, problems)
        if not len(problems) and not source.adds_to:
            _check_trained(items, labels, source, problems)
    elif not len(problems) and not source.adds_to:
        _check_groups(items, labels, least_groups, source, problems)
    if len(skipped) * 2 > read:
        problems.add(
            f"{len(skipped)} of {read} pictures cannot be used, the first one {skipped[0].image!r} "
            f"on {problems.unit} {skipped[0].line} ({skipped[0].reason})",
            "that is too many to skip: check data.images",
            column=source.columns["image"],
        )
    problems.tell()
    digest = _data_hash(source, _hashes(hashed))
    origin = f"{source.name}, {len(items)} items (SHA-256 {digest[:16]})"
    task = source.targets.task
    dataset = Dataset(source.name, items, origin, source.licence, label_order=labels, task=task)
    return LoadedManifest(dataset, tuple(_facts(items, facts)), skipped, digest, unlabelled)


def _check_targets(
    rows: Sequence[Row], items: Sequence[Item], source: ManifestSource, problems: Problems
) -> tuple[str, ...]:
    """Check what is right for the items; the labels in the order of a head's logits."""
    column = source.columns["label"]
    if source.adds_to and not source.labels:
        return (*source.adds_to, *sorted({row.label for row in rows} - set(source.adds_to)))
    if source.targets.task == "classification":
        return check_labels(rows, source.labels, column, problems)
    if source.targets.task == "multilabel":
        check_label_sets(rows, source.labels, column, problems)
    labels = labels_of(items, source.targets)
    if source.targets.task == "tagging" and len(labels) == 1 and not len(problems):
        problems.add("holds no entity at all", "add some", column=source.columns["entities"])
    return source.labels or labels


def hash_manifest(source: ManifestSource) -> str:
    """Hash a manifest and its pictures, without trying them: SHA-256 of all that is read.

    Raises:
        RecipeError: when the manifest cannot be read, or an item has a problem.
    """
    problems, rows, _, _ = _read(source)
    problems.tell()
    return _data_hash(source, _hashes(hash_pictures([row.path for row in rows])))


def _hashes(hashed: Mapping[Path, ImageFile | str]) -> list[str]:
    """The pictures' hashes in the manifest's order; a reason where there is none."""
    return [one.sha256 if isinstance(one, ImageFile) else one for one in hashed.values()]


def _read(source: ManifestSource) -> tuple[Problems, list[Row], set[str], int]:
    """What is wrong, the items, our names of the columns, and how many items have no label yet."""
    if not source.images.is_dir():
        raise RecipeError(f"{source.images}: is no folder; data.images is relative to the recipe")
    unit = "row" if source.path.suffix.lower() == ".parquet" else "line"
    problems = Problems(source.name, unit)
    columns = {**source.columns, **source.targets.columns}
    there, records = read_records(source.path, columns, problems)
    place = Place(source.images, missing_is_bad=source.skip_bad_images)
    labelled = records
    if source.skip_unlabelled:
        labelled = [one for one in records if one.values.get("label") not in (None, "")]
    rows = check_rows(there, labelled, source.columns, place, problems, source.targets)
    return problems, rows, there, len(records) - len(labelled)


def _data_hash(source: ManifestSource, pictures: Iterable[str]) -> str:
    with source.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    for one in pictures:
        digest.update(f"\0{one}".encode())
    return digest.hexdigest()


def _without_bad_images(
    rows: Sequence[Row],
    hashed: Mapping[Path, ImageFile | str],
    facts: Mapping[str, PictureFacts | str],
    source: ManifestSource,
    problems: Problems,
) -> tuple[list[Row], tuple[Skipped, ...]]:
    good, skipped = [], []
    for row in rows:
        picture = hashed[row.path]
        found = facts[picture.sha256] if isinstance(picture, ImageFile) else picture
        if not isinstance(found, str):
            good.append(row)
        elif source.skip_bad_images:
            skipped.append(Skipped(row.line, row.image, found))
        else:
            problems.add(
                f"picture {row.image!r}: {found}",
                'replace it, remove the item, or set data.bad_images = "skip"',
                line=row.line,
                column=source.columns["image"],
            )
    return good, tuple(skipped)


def _items(rows: Sequence[Row], hashed: Mapping[Path, ImageFile | str]) -> tuple[Item, ...]:
    """Make items; equal pairs get one group, so that no split can part them."""
    joined = Joined()
    items = []
    for row in rows:
        picture = hashed[row.path]
        assert isinstance(picture, ImageFile)  # noqa: S101 - the others were left out
        group = f"item {row.id}" if row.group is None else f"group {row.group}"
        item = Item(row.id, row.text, picture, row.label, group, row.side, row.target)
        joined.join(group, f"pair {item.content_hash}")
        items.append(item)
    return tuple(replace(one, group=joined.name(one.group)) for one in items)


def _check_trained(
    items: Sequence[Item], labels: Sequence[str], source: ManifestSource, problems: Problems
) -> None:
    task = source.targets.task
    trained = set().union(*(held_labels(one, task) for one in items if one.side == "train"))
    wanted = {
        "classification": list(labels),
        "multilabel": list(labels),
        "tagging": sorted(entity_labels(items)),
    }.get(task, [])
    for label in wanted:
        if label not in trained:
            problems.add(
                f"label {label!r} has no item in train", "add some, or take the label away",
                column=source.columns["entities" if task == "tagging" else "label"],
            )  # fmt: skip


def _check_pairs(rows: Sequence[Row], items: Sequence[Item], problems: Problems) -> None:
    first: dict[str, Row] = {}
    for row, item in zip(rows, items, strict=True):
        other = first.setdefault(item.content_hash, row)
        if other.side != row.side:
            problems.add(
                f"the same text and picture as {problems.unit} {other.line}, which is in "
                f"{other.side}; this one is in {row.side}",
                "keep one of them",
                line=row.line,
            )


def _check_groups(
    items: Sequence[Item],
    labels: Sequence[str],
    least: int,
    source: ManifestSource,
    problems: Problems,
) -> None:
    if source.targets.task != "classification":
        found = len({item.group for item in items})
        if found < least:
            problems.add(
                f"holds {found} groups of items, and folds need {least}",
                "add items, or lower split.folds and split.validation_folds",
            )
        return
    groups: dict[str, set[str]] = defaultdict(set)
    counts = Counter(item.label for item in items)
    for item in items:
        groups[item.label].add(item.group)
    for label in labels:
        if len(groups[label]) < least:
            problems.add(
                f"label {label!r} has {counts[label]} items in {len(groups[label])} groups, and "
                f"folds need {least} groups",
                "add items, take the label away, or lower split.folds and split.validation_folds",
                column=source.columns["label"],
            )


def _facts(
    items: Iterable[Item], facts: Mapping[str, PictureFacts | str]
) -> Iterable[PictureFacts]:
    for item in items:
        found = facts[item.image.sha256] if isinstance(item.image, ImageFile) else ""
        if not isinstance(found, str):
            yield found
