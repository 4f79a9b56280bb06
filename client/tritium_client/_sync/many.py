"""Many calls at a time, with bounded memory, in threads; `_async/many.py` has tasks instead."""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from tritium_client._exceptions import ClientClosed, TritiumClientError
from tritium_client._inputs import Item
from tritium_client._results import ItemResult

Items = Iterable[Item]
"""What `classify_many` and `embed_many` read."""
T = TypeVar("T")
Ask = Callable[[int, Any], T]


def run_many(
    items: Items, ask: Ask[T], concurrency: int, *, ordered: bool
) -> Iterator[ItemResult[T]]:
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
    source = enumerate(items)
    running: deque[Future[ItemResult[T]]] = deque()
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="tritium-many")
    more = True
    try:
        while more or running:
            while more and len(running) < concurrency:
                try:
                    index, item = next(source)
                except StopIteration:
                    more = False
                else:
                    # Tracing and logging read the caller's context.
                    context = contextvars.copy_context()
                    running.append(pool.submit(context.run, _result_of, ask, index, item))
            if not running:
                break
            first = running[0]
            if not ordered:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                first = next(future for future in running if future in done)
            running.remove(first)
            yield first.result()
    finally:
        # What is in flight ends with its own deadline; nobody has to wait for it here.
        pool.shutdown(wait=False, cancel_futures=True)


def _result_of(ask: Ask[T], index: int, item: Any) -> ItemResult[T]:
    try:
        return ItemResult(index, ask(index, item))
    except ClientClosed:
        raise
    except TritiumClientError as error:
        error.index = index
        return ItemResult(index, error=error)
