"""What happens to a server, told to whoever started it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

EventName = Literal[
    "warning",  # something that will not stay well
    "checked",  # the repository and its releases are in order
    "started",  # tritonserver answers
    "progress",  # one more component loaded or golden sample answered
    "loaded",  # every model is loaded
    "golden",  # every golden sample was answered as at build
    "ready",
    "stub_died",
    "healed",
    "given_up",
    "unwell",
    "recovered",
    "switched",  # another release of an app is live
    "followed",  # the repository named another release, and this server went after it
    "not_followed",
    "unsigned",  # a release is loaded that the server does not want
    "candidate_missing",  # the release beside the live one could not be loaded
    "died",  # tritonserver ended by itself
    "leaving",  # /ready says no; requests are still taken
    "draining",
    "stopped",
]


@dataclass(frozen=True)
class Event:
    """One thing that happened."""

    name: EventName
    text: str
    """For people, one line."""
    fields: MappingProxyType[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """For scripts: JSON values."""

    @classmethod
    def of(cls, name: EventName, text: str, **fields: Any) -> Event:
        """Make an event with its fields."""
        return cls(name, text, MappingProxyType(fields))


OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing."""
