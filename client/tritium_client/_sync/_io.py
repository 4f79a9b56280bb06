"""What differs between waiting in a coroutine and waiting in a thread.

`_async/_io.py` has the same names; they, `many.py` and `race.py` are written twice, all else is
generated.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

Interrupted = grpc.FutureCancelledError
"""What a request ends with that `Cancellation` gave up. When its channel is closed under it, a
request ends with the status CANCELLED."""
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


class Cancellation:
    """Gives up a request, from another thread."""

    overtaken = False
    """Whether a request that was sent later was answered before this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancel: Callable[[], object] | None = None
        self._cancelled = False

    def bind(self, cancel: Callable[[], object]) -> None:
        """Say how; called at once when it was given up before it was sent."""
        with self._lock:
            self._cancel = cancel
            cancelled = self._cancelled
        if cancelled:
            cancel()

    def cancel(self) -> None:
        """Give the request up."""
        with self._lock:
            self._cancelled = True
            cancel = self._cancel
        if cancel is not None:
            cancel()


def unary(
    method: Any,
    request: Any,
    timeout_s: float,
    metadata: tuple[tuple[str, str], ...],
    cancellation: Cancellation | None,
) -> Any:
    """Send one request and wait for its answer."""
    if cancellation is None:
        return method(request, timeout=timeout_s, metadata=metadata)
    future = method.future(request, timeout=timeout_s, metadata=metadata)
    cancellation.bind(future.cancel)
    return future.result()


class Slots:
    """Places for requests in flight; who finds none waits for one.

    Args:
        count: How many there are.
    """

    def __init__(self, count: int) -> None:
        self._free = threading.Semaphore(count)

    def take(self, timeout_s: float) -> bool:
        """Take a place, waiting at most `timeout_s` seconds for one.

        Returns:
            Whether there was one.
        """
        return self._free.acquire(timeout=timeout_s)

    def take_now(self) -> bool:
        """Take a place if one is free."""
        return self._free.acquire(blocking=False)

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
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._under_way = 0
        self._closed = False

    def start(self, work: Callable[[], None]) -> bool:
        """Begin a piece of work, and return at once.

        Returns:
            Whether there was a place for it.
        """
        with self._lock:
            if self._closed or self._under_way >= self._places:
                return False
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self._places, "tritium-background")
            try:
                # Tracing and logging read the caller's context.
                self._threads.submit(contextvars.copy_context().run, self._run, work)
            except RuntimeError:  # no thread is to be had, or the interpreter ends
                return False
            self._under_way += 1
            return True

    def close(self) -> None:
        """Begin nothing any more; what is under way ends when its channel is closed."""
        with self._lock:
            self._closed = True
            if self._threads is not None:
                self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            with self._lock:
                self._under_way -= 1
