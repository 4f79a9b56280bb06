"""What differs between waiting in a coroutine and waiting in a thread.

`_async/_io.py` has the same names; they and `many.py` are written twice, all else is generated.
"""

from __future__ import annotations

import time
from typing import Any

import grpc


class Interrupted(BaseException):
    """Nothing raises it: gRPC ends a call in flight with the status CANCELLED."""


CLOSED_CHANNEL: tuple[type[Exception], ...] = (ValueError,)
"""What gRPC raises for a call on a closed channel."""

sleep = time.sleep


def open_channel(endpoint: str, options: list[tuple[str, Any]], credentials: Any) -> Any:
    """A channel, plain text without credentials; safe to use from several threads."""
    if credentials is None:
        return grpc.insecure_channel(endpoint, options=options)
    return grpc.secure_channel(endpoint, credentials, options=options)


def close_channel(channel: Any) -> None:
    """Close a channel; what is in flight is cancelled."""
    channel.close()
