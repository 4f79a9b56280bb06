"""The key that a server's model control asks for, in files that its user alone can read."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from tritium_client._admin_key import NAME, PATTERN, VARIABLE, key_files
from tritium_deploy.errors import AdminKeyError
from tritium_deploy.security.certificates import others_may_read

RESTRICTED = ("model-repository", "logging", "trace", "shared-memory")
"""Protocols of Triton that ask for it: they change what is served, write files, or read and map
memory of other processes."""


class AdminKey:
    """The key of one server while it runs.

    Args:
        port: The server's gRPC port; local clients look for its key by that.
        file: Where the key is kept beyond this run, and is read from when it is there; None for one
            that is drawn anew, and lies where local clients find it for as long as the server runs.

    Raises:
        AdminKeyError: the file cannot be read or written.
    """

    def __init__(self, port: int, file: Path | None = None) -> None:
        self._port = port
        self._drawn = file is None
        self.value = secrets.token_urlsafe(32) if file is None else read_or_make_key(file)
        self.file = file

    def leave(self) -> None:
        """Put a drawn key where local clients find it; the server must own its port by now.

        Raises:
            AdminKeyError: there is no place for it.
        """
        if not self._drawn:
            return
        problems = []
        self.remove()  # what a server left that was killed would be found in place of this one
        for path in key_files(self._port):
            try:
                _require_private_folder(path.parent)
                _write(path, self.value)
            except OSError as error:
                problems.append(f"{path.parent} ({error.strerror or error})")
                continue
            self.file = path
            return
        raise AdminKeyError(
            f"the admin key has no place: {', '.join(problems)}; give --admin-key-file, or "
            "--open-admin to ask for none"
        )

    def remove(self) -> None:
        """Take a drawn key away; it is good for nothing any more."""
        if self._drawn:
            for path in key_files(self._port):
                with contextlib.suppress(OSError):
                    path.unlink()


def read_key(path: Path) -> str:
    """Read a key.

    Raises:
        AdminKeyError: there is none, or others can read it as well.
    """
    try:
        others = others_may_read(path)
        key = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise AdminKeyError(f"admin key file {path} cannot be read: {error}") from error
    if not PATTERN.fullmatch(key):
        raise AdminKeyError(
            f"admin key file {path} holds no key: at least 16 letters, digits, - or _; remove it, "
            "and `tritium serve --admin-key-file` writes a new one"
        )
    if others:
        raise AdminKeyError(f"admin key file {path} can be read by others; chmod 600 {path}")
    return key


def read_or_make_key(path: Path) -> str:
    """Read a key; where there is no file yet, draw one and write it, mode 0600.

    Raises:
        AdminKeyError: it cannot be read or written.
    """
    try:
        _write(path, secrets.token_urlsafe(32))
    except FileExistsError:
        return read_key(path)
    except OSError as error:
        raise AdminKeyError(
            f"admin key file {path} cannot be written ({error.strerror})"
        ) from error
    return read_key(path)


def _write(path: Path, key: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key + "\n")


def _require_private_folder(folder: Path) -> None:
    """Make a folder that nobody else can look into; one that somebody else made will not do."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077 or not folder.is_dir():
        raise PermissionError(f"{folder} is not this user's alone")


__all__ = ["NAME", "RESTRICTED", "VARIABLE", "AdminKey", "read_key", "read_or_make_key"]
