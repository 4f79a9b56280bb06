"""What was done to an app's releases, by whom and when: append-only, beside the releases.

One JSON object a line in `.tritium/<app>.history.jsonl`. A crash amid a line leaves a torn one; it
is skipped, and what comes after it begins a line of its own.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from tritium_builders.names import state_file
from tritium_builders.release import Record

Action = Literal[
    "publish", "stage", "canary", "shadow", "promote", "rollback", "undo", "retire", "delete"
]
"""`undo`: a switch that could not be completed, and was taken back."""


class GateRecord(Record):
    """What one gate found about a candidate."""

    gate: str
    passed: bool
    found: str
    """In words, with the figures."""


class Traffic(Record):
    """What callers got of one release, over some time."""

    requests: int
    """That were answered."""
    failures: int
    """Those among all that were not."""
    mean_ms: float
    """Of those that were answered, as Triton measures it; 0 where there were none."""


class HistoryEntry(Record):
    """One thing that was done."""

    when: str
    """ISO 8601, UTC."""
    who: str
    """`user@host`."""
    action: Action
    release: int
    """What it was done to: of a promote and a rollback, what is live afterwards."""
    live: int | None = None
    """What was live afterwards."""
    former: int | None = None
    """Of a promote and a rollback: what was live before."""
    percent: float | None = None
    """Of a canary and a shadow: its share."""
    gates: list[GateRecord] = Field(default=[])
    before: Traffic | None = None
    """Of a promote: what callers got of the former release until then."""
    reason: str = ""
    """Why, where it was not asked for."""


def history_path(repository: Path, app: str) -> Path:
    """Where an app's history lies."""
    return state_file(repository, app, "history.jsonl")


def read_history(repository: Path, app: str) -> list[HistoryEntry]:
    """Everything that was done to an app, oldest first; empty where there is no history."""
    try:
        lines = history_path(repository, app).read_text("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    entries = []
    for line in lines:
        try:
            entries.append(HistoryEntry.model_validate_json(line))
        except ValidationError:
            continue
    return entries


def numbers_in_history(repository: Path, app: str) -> set[int]:
    """Every release number that a history mentions, whatever else its lines hold."""
    try:
        lines = history_path(repository, app).read_text("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return set()
    numbers = set()
    for line in lines:
        try:
            numbers.add(int(json.loads(line)["release"]))
        except (ValueError, KeyError, TypeError):
            continue
    return numbers


def append_history(repository: Path, app: str, entry: HistoryEntry) -> None:
    """Write one entry, and bring it to the disk.

    Raises:
        OSError: it cannot be written.
    """
    line = entry.model_dump_json(exclude_defaults=True).encode() + b"\n"
    path = history_path(repository, app)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def now() -> str:
    """The time for an entry."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def whoami() -> str:
    """Who does something: `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
