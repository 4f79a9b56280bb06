"""From rows to answers: asks for every row that is not answered yet, and knows when to give up."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tritium_client._batch.answers import Sink, record_of
from tritium_client._batch.errors import BatchError, WrongUsageError
from tritium_client._batch.items import Row, Source, unique
from tritium_client._exceptions import AppNotFound, DeadlineExceeded, ServerUnavailable

if TYPE_CHECKING:
    from tritium_client import Client, ItemResult

GONE_AFTER = 50
"""Items in a row that find no server, or no app; the next one would find none either."""


@dataclass(frozen=True)
class Options:
    """How items are asked for; as the client's methods for many items have them."""

    concurrency: int
    timeout_s: float
    top_k: int | None = None
    """None where there is no ranking."""
    route_key: str | None = None
    """Of every item."""


AskMany = Callable[[Iterator[Mapping[str, Any]]], "Iterator[ItemResult[Any]]"]


@dataclass
class Tally:
    """What became of a run so far."""

    answered: int = 0
    failed: int = 0
    already_there: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self.started


def survey(source: Source, done: Set[str]) -> int | None:
    """Read the input once without asking anything, so that wrong usage shows at once.

    Args:
        source: What is read.
        done: Ids that are answered already.

    Returns:
        How many rows are left to ask for; None for standard input, which is read only once.

    Raises:
        WrongUsageError: two rows have one id, or the input is none.
        BatchError: the input cannot be read.
        OSError: likewise.
    """
    if source.path is None:
        return None
    return sum(row.id not in done for row in unique(source.rows()))


def check_app(client: Client, options: Options) -> None:
    """See that the app is there; without it, a million items would end with a million equal errors.

    Args:
        client: Of the app.
        options: How items are asked for.

    Raises:
        TritiumClientError: it cannot be asked.
        WrongUsageError: an option could never be right.
    """
    try:
        client.labels(timeout_s=options.timeout_s)
    except ValueError as error:
        raise WrongUsageError(str(error)) from error


class Run:
    """One run over an input.

    Args:
        ask_many: Asks for items, one result for each in their order.
        source: What is read.
        sink: Where lines go.
        tally: Counts as the run goes.
        tell: Called after every line.
    """

    def __init__(
        self,
        ask_many: AskMany,
        source: Source,
        sink: Sink,
        tally: Tally,
        tell: Callable[[], None],
    ) -> None:
        self._ask_many = ask_many
        self._source = source
        self._sink = sink
        self._tally = tally
        self._tell = tell
        self._in_flight: deque[Row] = deque()
        self._gone = 0
        """Items in a row that found no server or no app."""
        self._unread: Exception | None = None
        """Why the input was not read to its end."""

    def __call__(self) -> None:
        """Ask and write until the input ends.

        Raises:
            WrongUsageError: two rows have one id.
            BatchError: the server has gone, or the input cannot be read any further.
            TritiumClientError: the connection was closed.
            OSError: the output cannot be written.
        """
        for result in self._ask_many(self._items()):
            row = self._in_flight.popleft()
            self._sink.write(record_of(row, result))
            self._count(result)
            self._tell()
            if self._gone >= GONE_AFTER:
                raise BatchError(f"{self._gone} items in a row failed: {result.error}")
        if self._unread is not None:
            raise self._unread

    def _items(self) -> Iterator[Mapping[str, Any]]:
        """What is asked, a few rows ahead of the answers."""
        try:
            for row in self._rows():
                if row.id in self._sink.done:
                    self._tally.already_there += 1
                else:
                    self._in_flight.append(row)
                    yield row.item()
        except (WrongUsageError, BatchError) as error:
            self._unread = error  # what is in flight is still answered
        except OSError as error:
            self._unread = BatchError(f"cannot read the input: {error}")

    def _rows(self) -> Iterable[Row]:
        rows = self._source.rows()
        # A file was looked through before.
        return unique(rows) if self._source.path is None else rows

    def _count(self, result: ItemResult[Any]) -> None:
        error = result.error
        if error is None:
            self._tally.answered += 1
            self._gone = 0
            return
        self._tally.failed += 1
        if isinstance(error, ServerUnavailable | AppNotFound):
            self._gone += 1
        elif error.attempts > 0 and not isinstance(error, DeadlineExceeded):
            # What the client itself refuses says nothing of the server, nor does silence.
            self._gone = 0
