"""A second request beside a slow one, in tasks; `_sync/race.py` has threads instead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from tritium_client._async._io import Cancellation
from tritium_client._exceptions import TritiumClientError

T = TypeVar("T")


class Race(Generic[T]):
    """Sends a request, and the same one again when it takes long; the first answer wins."""

    async def run(
        self,
        send: Callable[[Cancellation], Awaitable[T]],
        delay_s: float,
        may_hedge: Callable[[], Awaitable[bool]],
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
        earlier = Cancellation()
        running = {asyncio.ensure_future(send(earlier))}
        try:
            done, _ = await asyncio.wait(running, timeout=delay_s)
            if not done and await may_hedge():
                running.add(asyncio.ensure_future(send(Cancellation())))
            while True:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                first = done.pop()
                running.remove(first)
                try:
                    answer = first.result()
                except TritiumClientError as error:
                    if not error.retryable or not running:
                        raise
                else:
                    earlier.overtaken = True  # says nothing when it is the one that answered
                    return answer
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def close(self) -> None:
        """Nothing to release."""
