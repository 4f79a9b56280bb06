"""What is read: a folder of pictures, a CSV, or JSON lines.

A bad line does not end the reading. It becomes a row with a problem, and its answer is an error.
"""

from __future__ import annotations

import codecs
import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from tritium_client._batch.errors import BatchError, WrongUsageError
from tritium_client.contract import MAX_TEXT_BYTES

PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
FIELDS = ("id", "text", "image")
NAMES_SHOWN = 12
_NAMES = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}


@dataclass(frozen=True)
class Row:
    """One item of the input, or what is wrong with it."""

    index: int
    """Counted from 0."""
    id: str
    line: int | None = None
    """Where it starts in its file, counted from 1; None for a picture of a folder."""
    text: str | Path | None = None
    """A text, or the file that holds it."""
    image: Path | None = None
    problem: str | None = None

    def item(self) -> Mapping[str, Any]:
        """What `classify_many` is given. A picture's file is read only when it is asked for."""
        if self.problem is not None:
            return {"image": _Refused(self.problem)}
        if not isinstance(self.text, Path):
            return {"text": self.text, "image": self.image}
        try:
            return {"text": _read_text(self.text), "image": self.image}
        except OSError as error:
            return {"image": _Refused(f"cannot read the text {self.text}: {error.strerror}")}


@dataclass(frozen=True)
class _Refused:
    """Stands where a picture would: a bad row is answered in its turn, like every other."""

    reason: str

    def read(self, size: int, /) -> bytes:
        """Refuse to be read, which the client turns into an InvalidInput."""
        del size
        raise ValueError(self.reason)


@dataclass(frozen=True)
class Source:
    """Where rows come from."""

    rows: Callable[[], Iterator[Row]]
    """Reads from the start. Raises OSError, BatchError or WrongUsageError."""
    path: Path | None
    """None for standard input, which can be read only once."""


def open_source(given: str) -> Source:
    """Find out what kind of input this is; nothing is read yet.

    Args:
        given: A folder, a .csv or .jsonl file, or "-" for JSON lines from standard input.

    Raises:
        WrongUsageError: it is none of them.
    """
    if given == "-":
        return Source(lambda: _jsonl_rows(sys.stdin.buffer, Path()), None)
    path = Path(given)
    if path.is_dir():
        return Source(partial(_read_folder, path), path)
    if not path.is_file():
        raise WrongUsageError(f"there is no folder or file {given}")
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise WrongUsageError(
            f"{given} is no input; give a folder of pictures, a .csv or a .jsonl file, "
            "or - for JSON lines from standard input"
        )
    return Source(partial(read, path), path)


def unique(rows: Iterable[Row]) -> Iterator[Row]:
    """Pass rows on, and keep their ids.

    Raises:
        WrongUsageError: when an id comes a second time, naming both places.
    """
    seen: dict[str, int | None] = {}
    for row in rows:
        if row.id in seen:
            raise WrongUsageError(
                f"lines {seen[row.id]} and {row.line} have the same id {row.id!r}; each item needs "
                "an id of its own (one without an id gets its line number)"
            )
        seen[row.id] = row.line
        yield row


def _read_folder(folder: Path) -> Iterator[Row]:
    index = 0
    for parent, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        present = set(names)
        for name in sorted(names):
            picture = Path(parent, name)
            if name.startswith(".") or picture.suffix.lower() not in PICTURES:
                continue
            text = picture.with_suffix(".txt")
            yield Row(
                index,
                picture.relative_to(folder).as_posix(),
                text=text if text.name in present else None,
                image=picture,
            )
            index += 1
    if index == 0:
        raise WrongUsageError(f"{folder} holds no picture ({', '.join(PICTURES)})")


def _unreadable(error: OSError) -> NoReturn:
    # os.walk would leave the folder out without a word.
    raise BatchError(f"cannot read the folder {error.filename}: {error.strerror}") from error


def _read_text(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_TEXT_BYTES + len(codecs.BOM_UTF8) + 2)
    return data.removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n")


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        yield from _jsonl_rows(file, path.parent)


def _jsonl_rows(lines: Iterable[bytes], folder: Path) -> Iterator[Row]:
    index = 0
    for number, line in enumerate(lines, start=1):
        # With its end, what is wrong at the end of a line would be called wrong on the next.
        data = line.rstrip()
        if number == 1:
            data = data.removeprefix(codecs.BOM_UTF8)
        if data:
            yield _json_row(index, number, data, folder)
            index += 1


def _json_row(index: int, line: int, data: bytes, folder: Path) -> Row:
    try:
        fields = json.loads(data.decode())
    except UnicodeDecodeError as error:
        return _broken(index, line, f"not valid UTF-8 at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        return _broken(index, line, f"not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:  # huge numbers, deep nesting
        return _broken(index, line, f"not JSON that can be read: {error}")
    if not isinstance(fields, dict):
        return _broken(index, line, f"a JSON object is needed, not {_name_of(fields)}")
    return _row(index, line, fields, folder)


def _read_csv(path: Path) -> Iterator[Row]:
    # Bytes that are no UTF-8 become lone surrogates, so that they spoil one row and not the file.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        names = _header(path, reader)
        index = 0
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                last = f" to line {reader.line_num}" if reader.line_num > line else ""
                yield _broken(index, line, f"not CSV{last}: {error}")
            else:
                if not cells:  # a blank line
                    continue
                yield _csv_row(index, line, names, cells, path.parent)
            index += 1


def _header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        names = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise WrongUsageError(f"the first line of {path} is not CSV: {error}") from error
    if not {"text", "image"} & set(names):
        raise WrongUsageError(
            f"{path} needs a column named text or image in its first line; it has {_shown(names)}"
        )
    for name in FIELDS:
        if names.count(name) > 1:
            raise WrongUsageError(f"{path} has more than one column named {name}")
    return names


def _csv_row(index: int, line: int, names: list[str], cells: list[str], folder: Path) -> Row:
    if len(cells) != len(names):
        return _broken(index, line, f"{len(cells)} cells, and the first line has {len(names)}")
    # A CSV cannot tell an empty text from none.
    fields = {name: cell or None for name, cell in zip(names, cells, strict=True)}
    for name in FIELDS:
        try:
            (fields.get(name) or "").encode()
        except UnicodeEncodeError:
            return _broken(index, line, f"{name} is not valid UTF-8")
    return _row(index, line, fields, folder)


def _row(index: int, line: int, fields: Mapping[str, Any], folder: Path) -> Row:
    own_id, text, image = (fields.get(name) for name in FIELDS)
    if own_id in (None, ""):
        own_id = line
    if isinstance(own_id, bool) or not isinstance(own_id, str | int):
        return _broken(index, line, f"id must be a text or a whole number, not {_name_of(own_id)}")
    problem = None
    for name, value in (("text", text), ("image", image)):
        if value is not None and not isinstance(value, str):
            problem = f"{name} must be a text, not {_name_of(value)}"
    if text is None and image is None:
        found = [name for name, value in fields.items() if value is not None]
        problem = f"neither text nor image is given; it has {_shown(found)}"
    if image == "":
        problem = "image is an empty path"
    if problem is not None:
        return Row(index, str(own_id), line, problem=f"line {line}: {problem}")
    return Row(index, str(own_id), line, text, None if image is None else folder / image)


def _broken(index: int, line: int, problem: str) -> Row:
    # Not the bare number: that may well be the id of a line nearby.
    return Row(index, f"line {line}", line, problem=f"line {line}: {problem}")


def _shown(names: list[str]) -> str:
    more = ", ..." if len(names) > NAMES_SHOWN else ""
    return ", ".join(map(repr, names[:NAMES_SHOWN])) + more or "none"


def _name_of(value: object) -> str:
    return _NAMES.get(type(value), "null" if value is None else "an object")
