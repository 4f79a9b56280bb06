"""Many calls at a time, with bounded memory, in tasks; `_sync/many.py` has threads instead."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

from tritium_client._exceptions import ClientClosed, TritiumClientError
from tritium_client._inputs import Item
from tritium_client._results import ItemResult

Items = Iterable[Item] | AsyncIterable[Item]
"""What `classify_many` and `embed_many` read."""
T = TypeVar("T")
Ask = Callable[[int, Any], Awaitable[T]]


async def run_many(
    items: Items, ask: Ask[T], concurrency: int, *, ordered: bool
) -> AsyncIterator[ItemResult[T]]:
    """Ask for every item, `concurrency` at a time.

    Args:
        items: Read only as fast as answers are taken.
        ask: Answers the item with this index. What it raises is the item's own error, but for
            ClientClosed and what is no TritiumClientError: these end the iteration.
        concurrency: Calls in flight at the most.
        ordered: Give results in the order of the items, else as they come.

    Yields:
        One result for each item.
    """
    source = _numbered(items)
    running: deque[asyncio.Task[ItemResult[T]]] = deque()
    more = True
    try:
        while more or running:
            while more and len(running) < concurrency:
                try:
                    index, item = await anext(source)
                except StopAsyncIteration:
                    more = False
                else:
                    running.append(asyncio.ensure_future(_result_of(ask, index, item)))
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


async def _result_of(ask: Ask[T], index: int, item: Any) -> ItemResult[T]:
    try:
        return ItemResult(index, await ask(index, item))
    except ClientClosed:
        raise
    except TritiumClientError as error:
        error.index = index
        return ItemResult(index, error=error)


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
