"""Records of a manifest, checked one by one: what every item needs, and where pictures may lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from tritium_builders.data.dataset import Side
from tritium_builders.data.problems import Problems
from tritium_builders.data.progress import track
from tritium_builders.data.records import REQUIRED, Record, describe
from tritium_builders.data.targets import TargetColumns, TargetReader
from tritium_builders.samples import Target
from tritium_client.contract import MAX_TEXT_BYTES

SIDES: tuple[Side, ...] = get_args(Side)
_NUMBERS_MAY_NAME = ("id", "label", "group")


@dataclass(frozen=True)
class Row:
    """One item of a manifest; its picture is not read yet."""

    line: int
    id: str
    text: str
    image: str
    """As the manifest has it."""
    path: Path
    """Where that lies."""
    label: str
    """Of a classification; else empty."""
    group: str | None
    """None: the item has no near-duplicates."""
    side: Side | None
    target: Target | None = None
    """Of other tasks."""


@dataclass(frozen=True)
class Place:
    """Where the pictures of a manifest lie."""

    folder: Path
    missing_is_bad: bool
    """A picture that is not there is left for later, where it may be skipped."""


def check_rows(
    there: set[str],
    records: Sequence[Record],
    columns: Mapping[str, str],
    place: Place,
    problems: Problems,
    where: TargetColumns = TargetColumns(),  # noqa: B008 - it never changes
) -> list[Row]:
    """Check what can be checked without reading a picture.

    Args:
        there: Our names of the columns that the manifest has.
        records: From `read_records`.
        columns: Our name of a column -> the manifest's.
        place: Where the pictures lie.
        problems: Receives what is wrong; such records are left out.
        where: What says what is right.

    Raises:
        ManifestError: when a column is missing or there is nothing to check at all.
    """
    required = (*REQUIRED, *where.required)
    columns = {**columns, **where.columns}
    for name in required:
        # Of a file that holds nothing there is more to say than that columns are missing.
        if name not in there and (there or records):
            fix = "data.values" if name in where.columns else f"data.columns.{name} = ..."
            problems.add("is missing", f"add it, or say {fix}", column=columns[name])
    if not records and not len(problems):
        problems.add("holds no items", "write at least one item a label")
    if not records or not there.issuperset(required):
        problems.tell()
    reader = _Reader(there, columns, place, problems, where)
    found = (reader.row(record) for record in track(records, "Checking rows", total=len(records)))
    rows = [row for row in found if row is not None]
    _check_ids(rows, columns["id"], problems)
    return rows


class _Reader:
    def __init__(
        self,
        there: set[str],
        columns: Mapping[str, str],
        place: Place,
        problems: Problems,
        where: TargetColumns,
    ) -> None:
        self._labelled = where.task == "classification"
        self._targets = TargetReader(where, columns, problems)
        self._there = there
        self._columns = columns
        self._place = place
        self._root = place.folder.resolve()
        self._problems = problems

    def row(self, record: Record) -> Row | None:
        """Turn a record into a row; None when there is anything wrong with it."""
        before = len(self._problems)
        text, image = (self._required(record, name) for name in REQUIRED)
        label = self._required(record, "label") if self._labelled else ""
        target = self._targets.read(record, text)
        own_id = self._required(record, "id") if "id" in self._there else str(record.line)
        side = self._side(record)
        group = self._cell(record, "group") if record.values.get("group") is not None else None
        if text is not None and len(text.encode()) > MAX_TEXT_BYTES:
            self._add(record, "text", f"more than {MAX_TEXT_BYTES} bytes", "shorten it")
        if label is not None and label != label.strip():
            self._add(record, "label", f"{label!r} has blanks around it", "remove them")
        path = None if image is None else self._path(record, image)
        if text is None or image is None or label is None or own_id is None or path is None:
            return None
        if len(self._problems) > before:
            return None
        return Row(record.line, own_id, text, image, path, label, group or None, side, target)

    def _required(self, record: Record, name: str) -> str | None:
        value = self._cell(record, name)
        if value is not None and not value.strip():
            fix = f"write one or remove the {self._problems.unit}"
            if name in {"text", "image"}:
                fix = f"an item needs text and image for now: {fix}"
            self._add(record, name, "is empty", fix)
            return None
        return value

    def _cell(self, record: Record, name: str) -> str | None:
        """The text of a cell; None after a problem was noted."""
        if name not in record.values:
            self._add(record, name, "is missing here", "add it")
            return None
        value = record.values[name]
        if name in _NUMBERS_MAY_NAME and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            fix = "write a text" if value is not None else "fill it in or remove the item"
            self._add(record, name, f"is {describe(value)}", fix)
            return None
        try:
            value.encode()
        except UnicodeEncodeError:
            self._add(record, name, "holds half a character (a lone surrogate)", "correct it")
            return None
        return value

    def _side(self, record: Record) -> Side | None:
        if "split" not in self._there:
            return None
        value = self._required(record, "split")
        for side in SIDES:
            if value == side:
                return side
        if value is not None:
            known = ", ".join(SIDES)
            self._add(record, "split", f"{value!r} is no split", f"write one of {known}")
        return None

    def _path(self, record: Record, image: str) -> Path | None:
        folder = self._place.folder
        try:
            path = (folder / image).resolve()
            inside = path.is_relative_to(self._root)
            is_folder, is_file = inside and path.is_dir(), inside and path.is_file()
        # A null character, a name that is too long, links that lead in circles.
        except (OSError, ValueError, RuntimeError) as error:
            self._add(record, "image", f"{image!r} is no path ({error})", "correct it")
            return None
        if not inside:
            self._add(
                record, "image", f"{image!r} leads outside the pictures' folder {folder}",
                "move the picture, or set data.images to the folder that holds all of them",
            )  # fmt: skip
            return None
        if is_folder:
            self._add(record, "image", f"{image!r} is a directory", "name a file in it")
            return None
        if not is_file and not self._place.missing_is_bad:
            hint = "write / between folders" if "\\" in image else "correct it, or data.images"
            self._add(record, "image", f"there is no file {image!r} in {folder}", hint)
            return None
        return path

    def _add(self, record: Record, name: str, problem: str, fix: str) -> None:
        self._problems.add(problem, fix, line=record.line, column=self._columns[name])


def _check_ids(rows: Iterable[Row], column: str, problems: Problems) -> None:
    first: dict[str, int] = {}
    for row in rows:
        line = first.setdefault(row.id, row.line)
        if line != row.line:
            problems.add(
                f"{row.id!r} is also on {problems.unit} {line}", "make ids unique",
                line=row.line, column=column,
            )  # fmt: skip


def check_label_sets(
    rows: Sequence[Row], wanted: Sequence[str], column: str, problems: Problems
) -> None:
    """Check the labels of a multi-label manifest against the recipe's list, where it gives one."""
    if not any(row.target for row in rows) and not len(problems):
        problems.add("holds no label at all", "add some", column=column)
    for row in rows if wanted else ():
        for label in row.target or ():
            if label not in wanted:
                problems.add(
                    f"{label!r} is not one of data.labels", "correct it or add it to the list",
                    line=row.line, column=column,
                )  # fmt: skip


def check_labels(
    rows: Sequence[Row], wanted: Sequence[str], column: str, problems: Problems
) -> tuple[str, ...]:
    """Check labels against the recipe's list.

    Args:
        rows: The items.
        wanted: The list; empty: whatever labels occur.
        column: The manifest's name of the column.
        problems: Receives what is wrong.

    Returns:
        The labels in the order of the probabilities.
    """
    occurring = Counter(row.label for row in rows)
    if not wanted:
        if len(occurring) == 1:
            problems.add(
                f"holds one label, {next(iter(occurring))!r}", "add items of another one",
                column=column,
            )  # fmt: skip
        return tuple(sorted(occurring))
    for row in rows:
        if row.label not in wanted:
            problems.add(
                f"{row.label!r} is not one of data.labels", "correct it or add it to the list",
                line=row.line, column=column,
            )  # fmt: skip
    return tuple(wanted)


def check_sides(
    rows: Sequence[Row], columns: Mapping[str, str], problems: Problems, *, whole: bool = True
) -> None:
    """Check splits that the manifest gives: none is empty, and no group is on two sides.

    Args:
        rows: The items.
        columns: Our name of a column -> the manifest's.
        problems: Receives what is wrong.
        whole: Whether these are all items, so that each split needs some.
    """
    counts = Counter(row.side for row in rows)
    # While items have problems of their own, nobody knows which side they would be on.
    empty = [side for side in SIDES if whole and not counts[side] and not len(problems)]
    for side in empty:
        problems.add(f"has no item in {side}", "give each split items", column=columns["split"])
    first: dict[str, Row] = {}
    for row in rows:
        if row.group is not None:
            other = first.setdefault(row.group, row)
            if other.side != row.side:
                problems.add(
                    f"group {row.group!r} is in {row.side} here and in {other.side} on "
                    f"{problems.unit} {other.line}",
                    "put all of a group into one split",
                    line=row.line, column=columns["group"],
                )  # fmt: skip
