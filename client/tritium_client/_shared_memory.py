"""Pooled regions of POSIX shared memory that a server on this host can read.

A region is a file in /dev/shm, named by the process that made it and locked for as long as that
lives. So whoever finds one that nobody has locked knows that its process ended without cleaning
up, whatever its id means now or in another container, and removes it.

Source: shm_open(3) and flock(2) of Linux.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import threading
import time
import uuid
import weakref
from pathlib import Path

FOLDER = Path("/dev/shm")  # noqa: S108 # nosec B108 # where POSIX shared memory lives
PREFIX = "tritium-client-"
NEW_PREFIX = "new-"
MADE_WITHIN_S = 60.0
"""A region is named and locked within milliseconds of its making; one that is not was given up."""
SMALLEST_BYTES = 256 * 1024
"""What is smaller travels faster in its message. Sizes of regions are powers of 2 times this."""
MOST_BYTES = 256 * 1024 * 1024
"""Of all regions of one pool; what finds no room travels in its message."""


class Region:
    """One region; `name` is its key for the server, too.

    Args:
        size: Bytes.

    Raises:
        OSError: /dev/shm is not there, or full.
    """

    def __init__(self, size: int) -> None:
        self.name = f"{PREFIX}{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self.size = size
        # Under another name until it is locked: unlocked regions are somebody's to remove.
        path, unlocked = FOLDER / self.name, FOLDER / f"{NEW_PREFIX}{self.name}"
        file = os.open(unlocked, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Not ftruncate: on a full /dev/shm that succeeds, and the first write is SIGBUS.
            os.posix_fallocate(file, 0, size)
            self._memory = mmap.mmap(file, size)
            unlocked.rename(path)
        except OSError:
            unlocked.unlink(missing_ok=True)
            os.close(file)
            raise
        self._close = weakref.finalize(self, _close, file, path, os.getpid())

    def write(self, data: bytes) -> None:
        """Put data at the region's beginning; at most `size` bytes."""
        self._memory[: len(data)] = data

    def close(self) -> None:
        """Remove the region; a server that has it mapped may still read it."""
        self._close()


def _close(file: int, path: Path, owner: int) -> None:
    if os.getpid() != owner:
        return  # a child after fork() ends; the region is its parent's
    with contextlib.suppress(OSError):
        path.unlink()
    os.close(file)


class RegionPool:
    """Regions that are lent to one request at a time. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[Region] = []
        self._bytes = 0
        self._closed = False

    def lend(self, size: int) -> Region | None:
        """A region of at least `size` bytes, or None when there is no room for one.

        Raises:
            OSError: /dev/shm is not there.
        """
        wanted = SMALLEST_BYTES
        while wanted < size:
            wanted *= 2
        with self._lock:
            for region in self._free:
                if region.size == wanted:
                    self._free.remove(region)
                    return region
            if self._closed or self._bytes + wanted > MOST_BYTES:
                return None
            self._bytes += wanted
        try:
            return Region(wanted)
        except OSError:
            with self._lock:
                self._bytes -= wanted
            raise

    def give_back(self, region: Region) -> None:
        """Take a region back whose request was answered."""
        with self._lock:
            if not self._closed:
                self._free.append(region)
                return
        region.close()

    def drop(self, region: Region) -> None:
        """Remove a region whose request may still be read: nobody may write to it again."""
        with self._lock:
            self._bytes -= region.size
        region.close()

    def close(self) -> list[str]:
        """Remove what is not lent; the rest goes when it comes back.

        Returns:
            The names of what was removed.
        """
        with self._lock:
            self._closed = True
            free, self._free = self._free, []
        for region in free:
            region.close()
        return [region.name for region in free]


def remove_stale() -> None:
    """Remove the regions of processes that ended without doing so."""
    for path in FOLDER.glob(f"{PREFIX}*"):
        if is_stale(path.name):
            path.unlink(missing_ok=True)
    for path in FOLDER.glob(f"{NEW_PREFIX}{PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):  # it has its name by now
            if time.time() - path.stat().st_mtime > MADE_WITHIN_S and is_stale(path.name):
                path.unlink()


def is_stale(name: str) -> bool:
    """Whether a region's process is gone; also when the region itself is."""
    try:
        file = os.open(FOLDER / name, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False  # of another user
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(file)
