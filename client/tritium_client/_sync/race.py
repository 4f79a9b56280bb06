"""A second request beside a slow one, in threads; `_async/race.py` has tasks instead."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

from tritium_client._exceptions import ClientClosed, TritiumClientError
from tritium_client._sync._io import Cancellation

T = TypeVar("T")

THREADS = 1024
"""More than any `max_in_flight` that threads are good for; a thread starts when it is needed."""


class Race(Generic[T]):
    """Sends a request, and the same one again when it takes long; the first answer wins."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._closed = False

    def run(
        self, send: Callable[[Cancellation], T], delay_s: float, may_hedge: Callable[[], bool]
    ) -> T:
        """Wait for the first answer; what is still in flight then is cancelled.

        Args:
            send: Sends the request.
            delay_s: Seconds after which it is sent again.
            may_hedge: Asked before that; False when there is no room or no budget.

        Raises:
            TritiumClientError: the first failure that another answer could not mend, else the
                last one.
        """
        running: dict[Future[T], Cancellation] = {}
        try:
            earlier = self._start(send, running)
            done, _ = wait(running, timeout=delay_s)
            if not done and may_hedge():
                self._start(send, running)
            while True:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                first = done.pop()
                del running[first]
                try:
                    answer = first.result()
                except TritiumClientError as error:
                    if not error.retryable or not running:
                        raise
                else:
                    earlier.overtaken = True  # says nothing when it is the one that answered
                    return answer
        finally:
            for cancellation in running.values():
                cancellation.cancel()

    def close(self) -> None:
        """Let the threads end with what they are doing."""
        with self._lock:
            self._closed = True
            if self._threads is not None:
                self._threads.shutdown(wait=False)

    def _start(
        self, send: Callable[[Cancellation], T], running: dict[Future[T], Cancellation]
    ) -> Cancellation:
        cancellation = Cancellation()
        with self._lock:
            if self._closed:
                raise ClientClosed("the client was closed during the call")
            if self._threads is None:
                self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="tritium-race")
            # Tracing and logging read the caller's context.
            context = contextvars.copy_context()
            running[self._threads.submit(context.run, send, cancellation)] = cancellation
            return cancellation
