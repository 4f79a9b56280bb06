"""The key that a server's model control asks for, in a file that its owner alone can read."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from tritium_deploy.errors import AdminKeyError

NAME = "admin-key"
HEADER = f"triton-grpc-protocol-{NAME}"
"""The gRPC header that carries it. Source: triton-inference-server/server,
docs/customization_guide/inference_protocols.md, "Limit Endpoint Access"."""
RESTRICTED = ("model-repository", "logging", "trace")
"""Protocols of Triton that ask for it: they change what is served, or write files."""


def read_key(path: Path) -> str:
    """Read a key.

    Raises:
        AdminKeyError: there is none, or others can read it as well.
    """
    try:
        mode = path.stat().st_mode
        key = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise AdminKeyError(f"admin key file {path} cannot be read: {error}") from error
    if not re.fullmatch(r"[A-Za-z0-9_-]{16,}", key):
        raise AdminKeyError(
            f"admin key file {path} holds no key: at least 16 letters, digits, - or _; remove it, "
            "and `tritium serve --admin-key-file` writes a new one"
        )
    if mode & 0o077:
        raise AdminKeyError(f"admin key file {path} can be read by others; chmod 600 {path}")
    return key


def read_or_make_key(path: Path) -> str:
    """Read a key; where there is no file yet, draw one and write it, mode 0600.

    Raises:
        AdminKeyError: it cannot be read or written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_key(path)
    except OSError as error:
        raise AdminKeyError(
            f"admin key file {path} cannot be written ({error.strerror})"
        ) from error
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
    return read_key(path)
