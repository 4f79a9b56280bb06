"""A switch of an app's entry points that has begun: which one, so that anybody can end it.

Several entry points cannot change in one instant, nor several servers. While they change, this note
lies beside the app's history; a rollout that died leaves it behind, and the next one completes or
undoes the switch. Whoever only follows the repository waits until it is gone.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from tritium_builders.durable import flush_one, replace_file
from tritium_builders.history import Action
from tritium_builders.names import state_file
from tritium_builders.release import Record


class PendingSwitch(Record):
    """What a switch wants."""

    former: int
    """The release that was live when it began."""
    release: int
    """The release that shall be."""
    action: Action
    """`promote` or `rollback`."""
    who: str
    when: str
    """ISO 8601, UTC."""


def pending_path(repository: Path, app: str) -> Path:
    """Where the note lies."""
    return state_file(repository, app, "switch.json")


def read_pending(repository: Path, app: str) -> PendingSwitch | None:
    """The switch that has begun and not ended; None for none. It is written whole or not at all."""
    try:
        text = pending_path(repository, app).read_text("utf-8")
        return PendingSwitch.model_validate_json(text)
    except (FileNotFoundError, ValidationError):
        return None


def write_pending(repository: Path, app: str, pending: PendingSwitch) -> None:
    """Note that a switch begins.

    Raises:
        OSError: it cannot be written.
    """
    replace_file(pending_path(repository, app), pending.model_dump_json(indent=2) + "\n")


def remove_pending(repository: Path, app: str) -> None:
    """Note that a switch has ended, either way."""
    path = pending_path(repository, app)
    path.unlink(missing_ok=True)
    flush_one(path.parent)
