"""What differs between waiting in a coroutine and waiting in a thread.

`_sync/_io.py` has the same names; they, `many.py` and `race.py` are written twice, all else is
generated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
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


class Cancellation:
    """Gives up a request; in a coroutine, cancelling its task does that already."""

    overtaken = False
    """Whether a request that was sent later was answered before this one."""


async def unary(
    method: Any,
    request: Any,
    timeout_s: float,
    metadata: tuple[tuple[str, str], ...],
    cancellation: Cancellation | None,
) -> Any:
    """Send one request and wait for its answer."""
    del cancellation
    return await method(request, timeout=timeout_s, metadata=metadata)


class Slots:
    """Places for requests in flight; who finds none waits for one.

    Args:
        count: How many there are.
    """

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)

    async def take(self, timeout_s: float) -> bool:
        """Take a place, waiting at most `timeout_s` seconds for one.

        Returns:
            Whether there was one.
        """
        if await self.take_now():
            return True
        try:
            await asyncio.wait_for(self._free.acquire(), timeout_s)
        except asyncio.TimeoutError:
            return False
        return True

    async def take_now(self) -> bool:
        """Take a place if one is free."""
        if self._free.locked():
            return False
        await self._free.acquire()  # does not wait
        return True

    def give(self) -> None:
        """Give a place back."""
        self._free.release()


class Background:
    """Work that nobody waits for, a few pieces at a time.

    Args:
        places: How many of them.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Begin a piece of work, and return at once.

        Returns:
            Whether there was a place for it.
        """
        if self._closed or len(self._tasks) >= self._places:
            return False
        task = asyncio.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def close(self) -> None:
        """End what is under way, and begin nothing any more."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
