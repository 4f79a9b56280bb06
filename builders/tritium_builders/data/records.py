"""Manifests as files: CSV, JSON lines and Parquet become records of the columns that we know."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritium_builders.data.problems import Problems
from tritium_builders.errors import RecipeError, needs

FORMATS = (".csv", ".jsonl", ".ndjson", ".parquet")
NAMES = ("id", "text", "image", "label", "group", "split", "entities")
REQUIRED = ("text", "image")
"""Of every task; `TargetColumns.required` has the others."""
LONGEST_FIELD = 1 << 24
"""Characters of a CSV field; csv's own limit is 131,072, and texts have a limit of their own."""
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Record:
    """One line or row, unchecked."""

    line: int
    """Of the line that it starts on, or of the row; from 1."""
    values: Mapping[str, object]
    """By our own names of the columns, not by the manifest's; what is not there is left out."""


def read_records(
    path: Path, columns: Mapping[str, str], problems: Problems
) -> tuple[set[str], list[Record]]:
    """Read a manifest.

    Args:
        path: A file that ends in one of `FORMATS`.
        columns: Our name of a column -> the manifest's.
        problems: Receives what is wrong with lines; they are left out.

    Returns:
        Our names of the columns that are there, and the records.

    Raises:
        RecipeError: when the file is not there, or is no such file at all.
        MissingExtraError: when pyarrow is not installed and the manifest is a Parquet file.
    """
    _check_file(path, problems.file)
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path, columns, problems)
    lines = _lines(path, problems)
    try:
        if path.suffix.lower() == ".csv":
            return _read_csv(lines, columns, problems)
        return _read_json_lines(lines, columns, problems)
    except OSError as error:
        raise RecipeError(
            f"{problems.file}: cannot be read ({error.strerror}); check its rights"
        ) from error


def _check_file(path: Path, name: str) -> None:
    try:
        if path.is_dir():
            raise RecipeError(f"{name}: is a directory; data.path names a file in it")
        if not path.is_file():
            raise RecipeError(
                f"{name}: there is no such file ({path}); data.path is relative to the recipe"
            )
    except (OSError, ValueError) as error:
        raise RecipeError(f"{name}: cannot be read ({error}); correct data.path") from error
    if path.suffix.lower() not in FORMATS:
        raise RecipeError(
            f"{name}: is of no kind that is known; give a file that ends in {', '.join(FORMATS)}"
        )


def _lines(path: Path, problems: Problems) -> Iterator[str]:
    """Decode line by line, so that what is not UTF-8 is found with its line."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if number == 1:
                if raw.startswith(_UTF_16):
                    raise RecipeError(f"{problems.file}: is UTF-16; save it as UTF-8")
                raw = raw.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901 - what Excel writes
            try:
                yield raw.decode()
            except UnicodeDecodeError as error:
                problems.add(
                    f"byte {error.start + 1} of the line is not UTF-8",
                    "save the file as UTF-8",
                    line=number,
                )
                # What is told of the line besides must not depend on these bytes.
                yield raw.decode(errors="replace")


def _read_csv(
    lines: Iterator[str], columns: Mapping[str, str], problems: Problems
) -> tuple[set[str], list[Record]]:
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        reader = csv.reader(lines, strict=True)
        header: list[str] = []
        records: list[Record] = []
        places: dict[str, int] = {}
        first = 1
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                problems.add(
                    f"is malformed CSV ({error})",
                    'put fields with commas, quotes or line breaks in "quotes", doubled inside',
                    line=first,
                )
                if not header:
                    problems.tell()  # without a header, all that follows would be noise
                row = []
            if row is None:
                return set(places), records
            if row and not header:
                header, places = row, _places(row, first, columns, problems)
                problems.tell()
            elif row and len(row) != len(header):
                problems.add(
                    f"has {len(row)} fields where the header has {len(header)}",
                    'add what is missing; put fields that hold commas in "quotes"',
                    line=first,
                )
            elif row:
                records.append(Record(first, {name: row[at] for name, at in places.items()}))
            first = reader.line_num + 1
    finally:
        csv.field_size_limit(before)


def _places(
    header: Sequence[str], line: int, columns: Mapping[str, str], problems: Problems
) -> dict[str, int]:
    """Where in a line each of our columns stands."""
    for other, word in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and other in header[0]:
            problems.add(f"has {word} between its fields", "save it with commas", line=line)
    places = {}
    for name, own in columns.items():
        if header.count(own) > 1:
            problems.add("is there twice", "rename or remove one of them", line=line, column=own)
        if own in header:
            places[name] = header.index(own)
    return places


def _read_json_lines(
    lines: Iterator[str], columns: Mapping[str, str], problems: Problems
) -> tuple[set[str], list[Record]]:
    names: set[str] = set()
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.add(
                f"is not valid JSON ({error})", "write one JSON object a line", line=number
            )
            continue
        if not isinstance(content, dict):
            problems.add(
                f"holds {describe(content)}, not an object",
                'write {"text": ..., "image": ..., "label": ...}',
                line=number,
            )
            continue
        values = {name: content[own] for name, own in columns.items() if own in content}
        names |= values.keys()
        records.append(Record(number, values))
    return names, records


def _read_parquet(
    path: Path, columns: Mapping[str, str], problems: Problems
) -> tuple[set[str], list[Record]]:
    with needs("train"):
        import pyarrow
        import pyarrow.parquet
    records: list[Record] = []
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            there = set(file.schema_arrow.names)
            own_names = {own: name for name, own in columns.items() if own in there}
            if own_names:
                for batch in file.iter_batches(columns=list(own_names)):
                    _add_batch(batch.to_pylist(), own_names, records)
    # Damaged files end in almost any of pyarrow's errors, and in some of Python's own.
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(
            f"{problems.file}: cannot be read as Parquet ({reason}); write the file again"
        ) from error
    return set(own_names.values()), records


def _add_batch(
    rows: Sequence[Mapping[str, Any]], own_names: Mapping[str, str], records: list[Record]
) -> None:
    for row in rows:
        values = {name: row[own] for own, name in own_names.items()}
        records.append(Record(len(records) + 1, values))


def describe(value: object) -> str:
    """Name the kind of a value, in the words of JSON."""
    if value is None:
        return "null"
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "text", bytes: "bytes"}
    kinds |= {list: "a list", dict: "an object"}
    return kinds.get(type(value), f"a {type(value).__name__}")
