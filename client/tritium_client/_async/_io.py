"""What differs between waiting in a coroutine and waiting in a thread.

`_sync/_io.py` has the same names; they and `many.py` are written twice, all else is generated.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

Interrupted = asyncio.CancelledError
"""What a call in flight ends with when its channel is closed under it."""
CLOSED_CHANNEL: tuple[type[Exception], ...] = (grpc.aio.UsageError, asyncio.InvalidStateError)
"""What gRPC raises for a call on a closed channel."""

sleep = asyncio.sleep


def open_channel(endpoint: str, options: list[tuple[str, Any]], credentials: Any) -> Any:
    """A channel, plain text without credentials; it belongs to the event loop that runs."""
    if credentials is None:
        return grpc.aio.insecure_channel(endpoint, options=options)
    return grpc.aio.secure_channel(endpoint, credentials, options=options)


async def close_channel(channel: Any) -> None:
    """Close a channel; what is in flight is cancelled."""
    await channel.close(None)
