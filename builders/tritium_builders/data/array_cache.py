"""Arrays that are slow to compute, kept one by one.

What was computed for an item of one data set is found again in any other. A cache is a folder of
shards, zip files that hold many arrays each. A shard is written once, and its checksums tell a
damaged one from a whole one; what a damaged one held is computed again. All caches of one kind
together stay under a limit: those that were not used for longest go first.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tritium_builders.data.cache import cache_folder, content_key, read_entry, write_entry

MOST_BYTES = 4 << 30
"""Of all shards of one kind: a million pooled feature vectors, or 16,000 pictures' patches."""
SMALL_BYTES = 1 << 20
MOST_SMALL = 32
"""Shards under `SMALL_BYTES`; when there are as many, the next one takes in what they hold."""

Array = npt.NDArray[Any]


class ArrayCache:
    """Arrays by name, of one source.

    Args:
        kind: What they are, for people who look into the folder; the limit is for each kind.
        key: From `content_key`: everything, beside the name, that an array depends on.
    """

    def __init__(self, kind: str, key: str) -> None:
        self._kind = kind
        self._folder = cache_folder() / f"{kind}-{key[:32]}"

    def read(self, names: Collection[str]) -> dict[str, Array]:
        """What is kept of these, [L, D] each."""
        wanted = set(names)
        found: dict[str, Array] = {}
        for shard in self._shards():
            if len(found) == len(wanted):
                break
            own = _read(shard, wanted)
            if own:
                found.update(own)
                with contextlib.suppress(OSError):
                    shard.touch()  # used now, so that it goes last
        return found

    def write(self, arrays: Mapping[str, Array]) -> None:
        """Keep arrays. A cache folder that cannot be written costs time, not the result.

        Args:
            arrays: [L, D] each, of one dtype, with one D.
        """
        if not arrays:
            return
        small = [shard for shard in self._shards() if _size(shard) < SMALL_BYTES]
        merged = small if len(small) >= MOST_SMALL else []
        together = {name: array for shard in merged for name, array in _read(shard).items()}
        together.update(arrays)
        with contextlib.suppress(OSError):
            _write(self._folder, together)
            for shard in merged:
                shard.unlink(missing_ok=True)
            _trim(self._kind)

    def _shards(self) -> list[Path]:
        """The largest first: most of what is wanted is there."""
        return sorted(self._folder.glob("*.zip"), key=_size, reverse=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # another run removed it


def _read(shard: Path, wanted: Collection[str] | None = None) -> dict[str, Array]:
    files = read_entry(shard)
    if files is None:
        return {}
    names = json.loads(files["names.json"])
    values = np.load(io.BytesIO(files["values.npy"]), allow_pickle=False)
    lengths = np.load(io.BytesIO(files["lengths.npy"]), allow_pickle=False)
    ends = np.cumsum(lengths)
    return {
        name: values[end - length : end]
        for name, length, end in zip(names, lengths, ends, strict=True)
        if wanted is None or name in wanted
    }


def _write(folder: Path, arrays: Mapping[str, Array]) -> None:
    names = list(arrays)
    files = {
        "names.json": json.dumps(names).encode(),
        "lengths.npy": _dump(np.array([len(arrays[name]) for name in names])),
        "values.npy": _dump(np.concatenate([arrays[name] for name in names])),
    }
    shard = content_key(name.encode() for name in names)[:32]
    write_entry(folder / f"{shard}.zip", files)


def _trim(kind: str) -> None:
    """Remove what was not used for longest until all of this kind is under the limit."""
    shards = [(path, path.stat()) for path in cache_folder().glob(f"{kind}-*/*.zip")]
    total = sum(stat.st_size for _, stat in shards)
    for path, stat in sorted(shards, key=lambda shard: shard[1].st_mtime):
        if total <= MOST_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= stat.st_size


def _dump(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
