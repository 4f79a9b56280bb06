"""Results that are slow to compute, kept in the user's cache folder.

An entry is one zip file, named by the hash of everything that it was computed from: zip's
checksums tell a damaged entry from a whole one, and a damaged one is computed again.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Where entries lie: `tritium` in the user's cache folder (XDG_CACHE_HOME on Linux)."""
    return platformdirs.user_cache_path("tritium")


def content_key(parts: Iterable[bytes]) -> str:
    """Hash parts into a key; `[b"a", b"b"]` and `[b"ab"]` differ.

    Args:
        parts: Everything that the result depends on.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def cached_files(
    name: str, key: str, compute: Callable[[], Mapping[str, bytes]]
) -> dict[str, bytes]:
    """Read an entry, or compute and keep it.

    An entry is written to a temporary file and renamed, so that no reader ever sees half of
    one. A cache folder that cannot be written costs time, not the result.

    Args:
        name: What it is, for people who look into the folder.
        key: From `content_key`.
        compute: Makes the files: name -> content.
    """
    path = cache_folder() / f"{name}-{key[:32]}.zip"
    kept = read_entry(path)
    if kept is not None:
        return kept
    files = dict(compute())
    try:
        write_entry(path, files)
    except OSError:
        # Read-only or full: the next run computes again.
        return files
    return files


def read_entry(path: Path) -> dict[str, bytes] | None:
    """Read an entry's files; None where it is not there or damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError):
        return None


def write_entry(path: Path, files: Mapping[str, bytes]) -> None:
    """Write an entry to a temporary file and rename it.

    Raises:
        OSError: when the folder cannot be written, or is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
    try:
        # Stored, not deflated: pictures and floats do not shrink, and reading is faster.
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
