"""Many calls at a time, with bounded memory, in tasks; `_sync/many.py` has threads instead."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from tritium_client._inputs import Item
from tritium_client._results import ItemResult

Items = Iterable[Item] | AsyncIterable[Item]
"""What `classify_many` reads."""
Ask = Callable[[int, Any], Awaitable[ItemResult]]


async def run_many(
    items: Items, ask: Ask, concurrency: int, *, ordered: bool
) -> AsyncIterator[ItemResult]:
    """Ask for every item, `concurrency` at a time.

    Args:
        items: Read only as fast as answers are taken.
        ask: Answers the item with this index; its errors end the iteration.
        concurrency: Calls in flight at the most.
        ordered: Give results in the order of the items, else as they come.

    Yields:
        One result for each item.
    """
    source = _numbered(items)
    running: deque[asyncio.Task[ItemResult]] = deque()
    more = True
    try:
        while more or running:
            while more and len(running) < concurrency:
                try:
                    index, item = await anext(source)
                except StopAsyncIteration:
                    more = False
                else:
                    running.append(asyncio.ensure_future(ask(index, item)))
            if not running:
                break
            first = running[0]
            if not ordered:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                first = next(task for task in running if task in done)
            running.remove(first)
            try:
                found = await first
            except BaseException:
                first.cancel()
                raise
            yield found
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _numbered(items: Items) -> AsyncIterator[tuple[int, Any]]:
    index = 0
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield index, item
            index += 1
        return
    for item in items:
        yield index, item
        index += 1
