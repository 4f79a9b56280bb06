"""One operator at a time for each app: a lock with an owner and an expiry, in the repository.

The lock is a file, so that it holds between machines that share the repository. Its owner renews
it while at work; one whose machine is gone is followed by the next operator when it has expired, or
at once when it was a process of the same machine that is no more. The file itself is read and
written under the repository's own lock (flock), which lasts for milliseconds.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from tritium_builders.durable import replace_file
from tritium_builders.history import whoami
from tritium_builders.names import state_file
from tritium_builders.publish import repository_lock
from tritium_builders.release import Record
from tritium_deploy.errors import LockedError

EXPIRY_S = 30.0
"""After its owner's last word. Machines' clocks may differ by a good part of it."""


class Owner(Record):
    """What a lock's file holds."""

    who: str
    """`user@host`."""
    host: str
    pid: int
    doing: str
    """For instance `promote openmoji 2`."""
    token: str
    """Tells one holding from another one of the same process."""
    expires: float
    """Seconds since the epoch."""

    @property
    def is_over(self) -> bool:
        """Whether nobody holds it any more."""
        if self.host == socket.gethostname() and not Path(f"/proc/{self.pid}").exists():
            return True
        return time.time() > self.expires


def lock_path(repository: Path, app: str) -> Path:
    """Where an app's lock lies."""
    return state_file(repository, app, "lock.json")


def read_owner(repository: Path, app: str) -> Owner | None:
    """Who is at work on an app; None for nobody."""
    try:
        owner = Owner.model_validate_json(lock_path(repository, app).read_text("utf-8"))
    except (FileNotFoundError, ValidationError):
        return None
    return None if owner.is_over else owner


def is_locked(repository: Path, app: str) -> bool:
    """Whether somebody is at work on an app."""
    return read_owner(repository, app) is not None


class AppLock:
    """Holds an app's lock within a `with` block.

    Args:
        repository: A Triton model repository.
        app: Which app.
        doing: What for, in words; others see it.
        wait_s: Seconds to wait for another owner; 0 to give up at once.
        on_wait: Told once whom it waits for.

    Raises:
        LockedError: on entering, when another owner holds it for longer than `wait_s`.
    """

    def __init__(
        self,
        repository: Path,
        app: str,
        doing: str,
        wait_s: float = 0.0,
        on_wait: Callable[[Owner], None] = lambda _: None,
    ) -> None:
        lock_path(repository, app)  # refuses what cannot be an app's name, before anything is made
        self._repository = repository
        self._app = app
        self._doing = doing
        self._wait_s = wait_s
        self._on_wait = on_wait
        self._token = secrets.token_hex(8)
        self._released = threading.Event()
        self._lost = False

    def require(self) -> None:
        """Make sure that it is still ours, before anything is changed.

        Raises:
            LockedError: it had expired, and somebody else took it.
        """
        owner = read_owner(self._repository, self._app)
        if self._lost or owner is None or owner.token != self._token:
            who = "nobody" if owner is None else owner.who
            raise LockedError(
                f"lost the lock of {self._app} (now held by {who}): this process stood still for "
                f"longer than {EXPIRY_S:.0f} s; run the command again"
            )

    def __enter__(self) -> AppLock:
        deadline = time.monotonic() + self._wait_s
        told = False
        while (owner := self._take()) is not None:
            if not told:
                self._on_wait(owner)
                told = True
            if time.monotonic() >= deadline:
                raise LockedError(
                    f"{owner.who} (process {owner.pid}) is at work on {self._app}: {owner.doing}; "
                    f"wait for it (--wait), or until its lock expires in "
                    f"{max(0.0, owner.expires - time.time()):.0f} s"
                )
            time.sleep(0.1)
        threading.Thread(target=self._renew, name="lock", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        with repository_lock(self._repository):
            owner = read_owner(self._repository, self._app)
            if owner is not None and owner.token == self._token:
                lock_path(self._repository, self._app).unlink(missing_ok=True)

    def _take(self) -> Owner | None:
        """Take the lock, or say who has it."""
        with repository_lock(self._repository):
            owner = read_owner(self._repository, self._app)
            if owner is None:
                self._write()
            return owner

    def _write(self) -> None:
        owner = Owner(
            who=whoami(),
            host=socket.gethostname(),
            pid=os.getpid(),
            doing=self._doing,
            token=self._token,
            expires=time.time() + EXPIRY_S,
        )
        replace_file(lock_path(self._repository, self._app), owner.model_dump_json() + "\n")

    def _renew(self) -> None:
        while not self._released.wait(EXPIRY_S / 3):
            try:
                with repository_lock(self._repository):
                    owner = read_owner(self._repository, self._app)
                    if owner is None or owner.token != self._token:
                        self._lost = True
                        return
                    if not self._released.is_set():
                        self._write()
            except OSError:
                continue  # a full disk, say: it expires if this lasts
