"""`--input` of `tritium classify` and `tritium embed`: progress, summary and exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import typer

from tritium_client._batch.answers import Sink, open_sink
from tritium_client._batch.errors import BatchError, WrongUsageError
from tritium_client._batch.items import Source, open_source
from tritium_client._batch.run import AskMany, Options, Run, Tally, check_app, survey
from tritium_client._exceptions import TritiumClientError

if TYPE_CHECKING:
    from tritium_client import Classification, Client, Embedding, ItemResult

SOME_FAILED = 3
INTERRUPTED = 130


@dataclass(frozen=True)
class Files:
    """What is read and written."""

    source: str
    output: str | None
    overwrite: bool
    as_json: bool
    """Print the summary as JSON on standard output."""


class AskFiles(Protocol):
    """Asks for every item of an input; `classify_files` and `embed_files`."""

    def __call__(
        self, client: Client, files: Files, options: Options, *, check: Client | None = None
    ) -> int:
        """Ask, and give the exit code."""


def classify_files(
    client: Client, files: Files, options: Options, *, check: Client | None = None
) -> int:
    """Classify every item of the input that the output does not answer yet; see `_ask_files`."""

    def ask_many(items: Iterator[Mapping[str, Any]]) -> Iterator[ItemResult[Classification]]:
        return client.classify_many(
            _with_key(items, options),
            concurrency=options.concurrency,
            top_k=options.top_k or 1,
            timeout_s=options.timeout_s,
        )

    return _ask_files(check or client, ask_many, "label", files, options)


def embed_files(
    client: Client, files: Files, options: Options, *, check: Client | None = None
) -> int:
    """Embed every item of the input that the output does not answer yet; see `_ask_files`."""

    def ask_many(items: Iterator[Mapping[str, Any]]) -> Iterator[ItemResult[Embedding]]:
        return client.embed_many(
            _with_key(items, options),
            concurrency=options.concurrency,
            timeout_s=options.timeout_s,
        )

    return _ask_files(check or client, ask_many, "vector", files, options)


def _with_key(items: Iterator[Mapping[str, Any]], options: Options) -> Iterator[Mapping[str, Any]]:
    return ({**item, "route_key": options.route_key} for item in items)


def _ask_files(
    check: Client, ask_many: AskMany, answer: str, files: Files, options: Options
) -> int:
    """Ask for every item of the input that the output does not answer yet.

    Args:
        check: Sees that the app is there, before anything is asked.
        ask_many: Asks it for items.
        answer: What a line with an answer holds.
        files: Input, output and summary.
        options: How items are asked for.

    Returns:
        The exit code.

    Raises:
        typer.BadParameter: wrong usage.
        BatchError: the run could not begin, or ended early.
        TritiumClientError: the app cannot be asked at all.
    """
    try:
        source = open_source(files.source)
        sink = open_sink(files.output, answer=answer, overwrite=files.overwrite, source=source)
        with closing(sink):
            left = survey(source, sink.done)
            if left != 0:
                check_app(check, options)
            return _run(ask_many, source, sink, left, files)
    except WrongUsageError as error:
        raise typer.BadParameter(str(error)) from error
    except BrokenPipeError:
        raise  # who read the answers has had enough: no reason for a message
    except OSError as error:
        raise BatchError(f"{error.filename or files.source}: {error.strerror}") from error
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)  # nothing was asked yet
        return INTERRUPTED


def _run(ask_many: AskMany, source: Source, sink: Sink, left: int | None, files: Files) -> int:
    tally = Tally()
    early: BaseException | None = None
    try:
        with _Bar(tally, left, shown=_may_draw(files)) as bar:
            Run(ask_many, source, sink, tally, bar.update)()
        sink.finish()
    except BrokenPipeError:
        raise
    except OSError as error:
        early = BatchError(f"cannot write {sink.name}: {error.strerror}")
    except (BatchError, WrongUsageError, TritiumClientError, KeyboardInterrupt) as error:
        early = error
    _print_summary(tally, sink, files, complete=early is None)
    if early is None:
        return SOME_FAILED if tally.failed else 0
    continues = "; the same command continues where it stopped" if sink.resumable else ""
    if isinstance(early, KeyboardInterrupt):
        typer.echo(f"interrupted{continues}", err=True)
        return INTERRUPTED
    if isinstance(early, WrongUsageError):
        raise early
    raise BatchError(f"{early}{continues}") from early


def _print_summary(tally: Tally, sink: Sink, files: Files, *, complete: bool) -> None:
    if files.as_json:
        summary = {
            "answered": tally.answered,
            "failed": tally.failed,
            "already_there": tally.already_there,
            "seconds": round(tally.seconds, 3),
            "output": sink.name,
            "complete": complete,
        }
        typer.echo(json.dumps(summary, ensure_ascii=False))
        return
    rate = _rate(tally)
    there = f"{tally.already_there:,} already there, " if tally.already_there else ""
    typer.echo(
        f"{tally.answered:,} answered, {tally.failed:,} failed, {there}"
        f"in {tally.seconds:.1f} s{f' ({rate})' if rate else ''} -> {sink.name}",
        err=True,
    )


def _rate(tally: Tally) -> str:
    """Empty when nothing was asked."""
    rate = (tally.answered + tally.failed) / max(tally.seconds, 1e-9)
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s" if rate else ""


def _may_draw(files: Files) -> bool:
    """Whether somebody watches, and answers do not come by on the same screen."""
    on_screen = files.output in (None, "-") and sys.stdout.isatty()
    return sys.stderr.isatty() and not on_screen


class _Bar:
    """A progress bar on stderr.

    Args:
        tally: What it shows.
        total: How many items there are; None when nobody knows.
        shown: Draw it.
    """

    def __init__(self, tally: Tally, total: int | None, *, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._tally = tally
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not shown,
        )
        self._task = self._progress.add_task("", total=total, note="")

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def update(self) -> None:
        """Show what became of the items so far."""
        tally = self._tally
        note = f"{_rate(tally)}, {tally.failed:,} failed" if tally.failed else _rate(tally)
        self._progress.update(self._task, completed=tally.answered + tally.failed, note=note)
