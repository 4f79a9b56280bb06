"""Files that a crash cannot tear: written whole, brought to the disk, and renamed into place."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, content: str) -> None:
    """Give a file new content; who reads it meanwhile finds the old one or the new one.

    Raises:
        OSError: it cannot be written; the old content is still there.
    """
    replace_bytes(path, content.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """Give a file new content, as `replace_file` does.

    Raises:
        OSError: it cannot be written; the old content is still there.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        flush_one(partial)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    flush_one(path.parent)


def flush(folder: Path) -> None:
    """Bring every file and folder below to the disk before a rename makes them visible."""
    for path in (folder, *folder.rglob("*")):
        flush_one(path)


def flush_one(path: Path) -> None:
    """Bring one file, or the names in one folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
