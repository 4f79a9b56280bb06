"""The admin key of a server on this machine: where `tritium serve` leaves it, and how it travels.

Triton asks for it before it changes what is served, and before it reads a client's shared memory.
Whoever may read the file may do that, so a server draws a new key at each start and keeps it in
files of mode 0600 in a folder of its user.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tempfile
from pathlib import Path

NAME = "admin-key"
HEADER = f"triton-grpc-protocol-{NAME}"
"""The gRPC header that carries it; over HTTP it is `NAME` alone. Source:
triton-inference-server/server, docs/customization_guide/inference_protocols.md, "Limit Endpoint
Access"."""
VARIABLE = "TRITIUM_ADMIN_KEY_FILE"
"""Environment variable: the file, where it is not the one that a local server leaves."""
PATTERN = re.compile(r"[A-Za-z0-9_-]{16,}")
"""What a key looks like."""


def key_folders() -> list[Path]:
    """Where servers of this user leave their keys, in order; the first that can be written to.

    `$XDG_RUNTIME_DIR`, which a login session has; `$XDG_STATE_HOME`, else `~/.local/state`; and for
    containers with neither, a private folder among the temporary files.

    Source: XDG Base Directory Specification.
    """
    found = []
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        found.append(Path(runtime) / "tritium")
    state = os.environ.get("XDG_STATE_HOME")
    home = Path("~").expanduser()
    if state or home.is_absolute():  # a user without a home leaves the ~ as it is
        found.append((Path(state) if state else home / ".local" / "state") / "tritium")
    found.append(Path(tempfile.gettempdir()) / f"tritium-{os.getuid()}")
    return found


def key_files(port: int) -> list[Path]:
    """Where the key of the server may lie whose gRPC port this is; most of them do not exist."""
    return [folder / f"{port}.key" for folder in key_folders()]


def local_key(endpoint: str) -> str | None:
    """The key of a server on this machine, if this user may read it.

    Args:
        endpoint: host:port. A key is looked for where the host is a loopback address only: what a
            local server asks for is no other machine's business.
    """
    if not is_loopback(endpoint):
        return None
    if explicit := os.environ.get(VARIABLE):
        return read_key_file(Path(explicit))
    for path in key_files(int(endpoint.rpartition(":")[2])):
        if (key := read_key_file(path)) is not None:
            return key
    return None


def read_key_file(path: Path) -> str | None:
    """The key in a file; None where there is none, or it cannot be read."""
    try:
        key = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return key if PATTERN.fullmatch(key) else None


def is_loopback(endpoint: str) -> bool:
    """Whether host:port is on this machine, as far as its text says."""
    host = endpoint.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
