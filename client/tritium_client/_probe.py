"""Whether an app answers: `tritium status` asks it, since Triton's word alone is not enough.

Triton says READY of an ensemble one of whose processes is dead. So each entry point is sent a
request of its own, with a word and a picture of one pixel.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tritium_client._exceptions import TritiumClientError
from tritium_client._results import AppStatus, EntryPoint

if TYPE_CHECKING:
    from tritium_client import Client

TEXT = "status"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""A PNG."""


@dataclass(frozen=True)
class Probe:
    """What came of asking an app."""

    app: str
    slowest_ms: float | None = None
    """Milliseconds of its slowest entry point; None when one does not answer."""
    error: str | None = None
    """Why one does not answer, and which."""


def probe(client: Client, status: AppStatus, timeout_s: float) -> Probe:
    """Ask each entry point of an app once, up to the first that does not answer.

    Args:
        client: Of its server.
        status: What the app answers.
        timeout_s: Seconds for each.
    """
    slowest_s = 0.0
    for entry_point in status.entry_points:
        began = time.monotonic()
        try:
            _ask(client, status.app, entry_point, timeout_s)
        except TritiumClientError as error:
            given = " + ".join(entry_point.modalities)
            return Probe(status.app, error=f"{entry_point.verb} {given}: {error}")
        slowest_s = max(slowest_s, time.monotonic() - began)
    return Probe(status.app, slowest_ms=round(1000 * slowest_s, 1))


def _ask(client: Client, app: str, entry_point: EntryPoint, timeout_s: float) -> None:
    named: dict[str, Any] = {"app": app, "timeout_s": timeout_s}
    inputs: dict[str, Any] = {"text": TEXT, "image": PIXEL}
    given = {name: inputs[name] for name in entry_point.modalities}
    if entry_point.verb == "embed":
        (modality,) = given
        embed = client.embed_text if modality == "text" else client.embed_image
        embed(given[modality], **named)
    elif entry_point.verb == "tag":
        client.tag(given.pop("text"), **given, **named)
    else:
        asks: dict[str, Callable[..., object]]
        asks = {"classify": client.classify, "annotate": client.annotate, "score": client.score}
        asks[entry_point.verb](**given, **named)
