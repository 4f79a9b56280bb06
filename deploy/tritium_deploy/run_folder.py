"""A private folder for one server: its backends, its log and its lock."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from pathlib import Path

from tritium_deploy.stubs import kill_stubs, remove_regions

PREFIX = "tritium-serve-"


class RunFolder:
    """A private folder for one server; its name begins the names of its regions in /dev/shm.

    The guard inherits the lock, so a folder whose lock is free belongs to nobody: whatever a server
    left behind that was killed together with its guard is removed by the next one.
    """

    def __init__(self) -> None:
        for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/lock"):
            _remove_if_abandoned(lock)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self.counts.mkdir()
        self._lock = (self.path / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    @property
    def lock_fd(self) -> int:
        """The descriptor that keeps the lock; the guard inherits it."""
        return self._lock.fileno()

    @property
    def region_prefix(self) -> str:
        """How the names of this server's regions in /dev/shm begin."""
        return f"{self.path.name}_"

    @property
    def counts(self) -> Path:
        """Where stubs keep their counters, a few files for each process."""
        return self.path / "counts"

    @property
    def router(self) -> Path:
        """A model repository for what this server alone serves."""
        return self.path / "router"

    @property
    def client_roots(self) -> Path:
        """Who vouches for clients, where they need certificates; Triton reads it when it starts."""
        return self.path / "client-roots.pem"

    @property
    def log(self) -> Path:
        """Where tritonserver's log goes unless another file is asked for."""
        return self.path / "triton.log"

    def remove(self, *, keep_log: bool) -> None:
        """Remove the folder; the log alone may stay. May be called twice."""
        remove_regions(self.region_prefix)
        self._lock.close()
        if keep_log and self.log.exists():
            _strip(self.path)
        else:
            shutil.rmtree(self.path, ignore_errors=True)


def _remove_if_abandoned(lock: Path) -> None:
    try:
        with lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            kill_stubs(f"{lock.parent.name}_")
            remove_regions(f"{lock.parent.name}_")
            _strip(lock.parent)
    except OSError:
        # Held by a living server, gone in between, or another user's: not ours to remove.
        return


def _strip(folder: Path) -> None:
    """Leave nothing but the log: somebody may want to know."""
    for name in ("backends", "counts", "router"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("lock", "client-roots.pem"):
        (folder / name).unlink(missing_ok=True)
