"""The labelling queue on disk: rows and pictures that several processes write without harm.

    FOLDER/<app>.jsonl          a manifest: a row for each request, its label still empty
    FOLDER/images/<hash>.png    the pictures, named by their content
    FOLDER/.lock                held by whoever writes

A picture is there before the row that names it, and a row is one write. Half a row, which only a
crash can leave behind, is taken away by the next one who writes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["written", "duplicates", "full"]
IMAGES = "images"
LONGEST_ROW = 1 << 20
"""Bytes; a text has at most 64 KiB, and JSON makes six of one at the most."""
_ENDINGS = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"RIFF", ".webp"),
)


@dataclass(frozen=True)
class Row:
    """One request and its answer."""

    app: str
    text: bytes
    image: bytes
    answer: str
    probability: float
    release: int
    time: str
    """UTC, ISO 8601."""

    @cached_property
    def id(self) -> str:
        """Equal for equal text and picture."""
        digest = hashlib.sha256(self.text)
        digest.update(b"\0")
        digest.update(self.image)
        return digest.hexdigest()[:24]

    @cached_property
    def picture(self) -> str:
        """Where the picture lies, relative to the queue's folder."""
        ending = next((end for start, end in _ENDINGS if self.image.startswith(start)), "")
        return f"{IMAGES}/{hashlib.sha256(self.image).hexdigest()[:32]}{ending}"


class Store:
    """A queue's folder. For one thread at a time; other processes may have stores of their own.

    Args:
        folder: Made when it is not there; only its owner may read it.
        max_bytes: What all rows and pictures in it may have together.

    Raises:
        OSError: it cannot be made, or not be written.
        ValueError: this system has no locks for files.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        try:
            import fcntl
        except ImportError as error:
            raise ValueError("a labelling queue needs file locks, which only POSIX has") from error
        self._flock, self._exclusive = fcntl.flock, fcntl.LOCK_EX
        self._folder, self._max_bytes = folder, max_bytes
        (folder / IMAGES).mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            pass
        self._forget()

    def add(self, row: Row) -> Outcome:
        """Write a row if it is new and there is room.

        Returns:
            What became of it.

        Raises:
            OSError: it cannot be written; nothing of it stays but perhaps its picture.
        """
        with self._locked():
            self._catch_up()
            return self._add(row)

    def _add(self, row: Row) -> Outcome:
        if (row.app, row.id) in self._seen:
            return "duplicates"
        line = json.dumps(_document(row), ensure_ascii=False).encode() + b"\n"
        new_bytes = len(line) + (0 if row.picture in self._pictures else len(row.image))
        if self._bytes + new_bytes > self._max_bytes:
            return "full"
        if row.picture not in self._pictures:
            self._write_picture(row)
            self._pictures.add(row.picture)
        inode, size = _append(self._folder / f"{row.app}.jsonl", line)
        self._read_until[inode] = size
        self._seen.add((row.app, row.id))
        self._bytes += new_bytes
        return "written"

    def _write_picture(self, row: Row) -> None:
        path = self._folder / row.picture
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "wb") as file:  # noqa: PTH123 - of a descriptor
                file.write(row.image)
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def _catch_up(self) -> None:
        """Learn what others have written, renamed or taken away since."""
        found = {path.stat().st_ino: path for path in self._folder.glob("*.jsonl")}
        if not found.keys() >= self._read_until.keys():
            self._forget()
        for inode, path in found.items():
            start = self._read_until.get(inode, 0)
            if path.stat().st_size == start:
                continue
            with path.open("rb") as file:
                file.seek(start)
                new = file.read()
            # Half a row of somebody who crashed is read again, or gone, the next time.
            whole = new[: new.rfind(b"\n") + 1]
            self._read_until[inode] = start + len(whole)
            self._bytes += len(whole)
            for line in whole.splitlines():
                self._learn(line)

    def _learn(self, line: bytes) -> None:
        """Note a row; who labels rows may have changed anything in it."""
        try:
            row = json.loads(line)
            picture, key = row["image"], (row["app"], row["id"])
            size = (self._folder / picture).stat().st_size
        except (ValueError, TypeError, KeyError, OSError):
            return
        self._seen.add(key)
        if picture not in self._pictures:
            self._pictures.add(picture)
            self._bytes += size

    def _forget(self) -> None:
        self._seen: set[tuple[str, str]] = set()
        self._pictures: set[str] = set()
        self._read_until: dict[int, int] = {}
        self._bytes = 0

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._flock(descriptor, self._exclusive)
            yield
        finally:
            os.close(descriptor)  # and so unlock


def _document(row: Row) -> dict[str, Any]:
    return {
        "id": row.id,
        "text": row.text.decode(),
        "image": row.picture,
        "label": "",
        "answer": row.answer,
        "probability": round(row.probability, 4),
        "release": row.release,
        "app": row.app,
        "time": row.time,
    }


def _append(path: Path, line: bytes) -> tuple[int, int]:
    """Add a line, after what is whole of the file.

    Returns:
        The file's inode and its size.

    Raises:
        OSError: the line cannot be written; nothing of it stays.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        status = os.fstat(descriptor)
        end = _end_of_rows(descriptor, status.st_size)
        if end < status.st_size:
            os.ftruncate(descriptor, end)
        if os.pwrite(descriptor, line, end) < len(line):
            os.ftruncate(descriptor, end)
            raise OSError(errno.ENOSPC, "no room for a whole row", str(path))
        return status.st_ino, end + len(line)
    finally:
        os.close(descriptor)


def _end_of_rows(descriptor: int, size: int) -> int:
    start = max(0, size - LONGEST_ROW)
    last = os.pread(descriptor, size - start, start).rfind(b"\n")
    return start + last + 1
