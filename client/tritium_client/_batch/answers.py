"""What is written: one line of JSON for each item, into a file that a later run continues.

A run first copies the answers that are there already to a new file beside the output. Errors, and a
last line that a crash tore, are left out. The new file takes the output's place when the first new
line is written, and grows from then on. So the output is whole at every moment: a crash loses no
answer, and a run that cannot begin changes nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator, Set
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

from tritium_client._batch.errors import BatchError, WrongUsageError
from tritium_client._batch.items import Row, Source
from tritium_client._exceptions import InvalidInput, TritiumClientError
from tritium_client._results import Classification, Embedding, ItemResult

_START = b'{"id": "'
"""Every line's first bytes: a torn line is told from a foreign file's by them."""


class Sink(Protocol):
    """Takes lines one after the other; each is on its way to the disk when `write` returns."""

    name: str
    """For people."""
    resumable: bool
    """Whether a later run finds what this one wrote."""

    @property
    def done(self) -> Set[str]:
        """Ids that are answered already."""

    def write(self, record: dict[str, Any]) -> None:
        """Write one line."""

    def finish(self) -> None:
        """The run has come to its end."""

    def close(self) -> None:
        """Let go of it, finished or not."""


class StreamSink:
    """Standard output, or a device: what is written is gone from here."""

    resumable = False
    done: Set[str] = frozenset()

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self.name = name
        self._stream = stream

    def write(self, record: dict[str, Any]) -> None:
        """Write one line; see `Sink`."""
        self._stream.write(to_line(record))
        self._stream.flush()

    def finish(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Let go of a device; standard output stays open."""
        if self._stream is not sys.stdout.buffer:
            with suppress(OSError):  # it was full, which `write` has told of
                self._stream.close()


def open_sink(given: str | None, *, answer: str, overwrite: bool, source: Source) -> Sink:
    """Open what takes the answers.

    Args:
        given: A file; None or "-" for standard output.
        answer: What a line with an answer holds, `label` or `vector`.
        overwrite: Leave out what the file holds.
        source: What is read, which must not be written over.

    Raises:
        WrongUsageError: it can never take answers.
        BatchError: another run is writing it.
        OSError: it cannot be read or written.
    """
    if given is None or given == "-":
        return StreamSink(sys.stdout.buffer, "standard output")
    path = Path(given)
    if path.is_dir():
        raise WrongUsageError(f"the output {given} is a folder; give a file")
    if not path.parent.is_dir():
        raise WrongUsageError(f"the output's folder {path.parent} does not exist")
    if not path.exists() or path.is_file():
        if source.path is not None and path.exists() and path.samefile(source.path):
            raise WrongUsageError("the output is the input; give another file")
        return FileSink(path, answer=answer, overwrite=overwrite)
    return StreamSink(path.open("wb"), given)


class FileSink:
    """An output file that a later run continues.

    Args:
        path: The file; it may be there already.
        answer: What a line with an answer holds, `label` or `vector`.
        overwrite: Leave out what it holds.

    Raises:
        WrongUsageError: it holds something else than answers.
        BatchError: another run is writing it.
        OSError: it cannot be read or written.
    """

    resumable = True

    def __init__(self, path: Path, *, answer: str, overwrite: bool) -> None:
        self.name = str(path)
        self._answer = answer
        self.done: set[str] = set()
        self._path = path.resolve()
        self._part = self._path.with_name(f".{self._path.name}.part")
        self._committed = False
        new = not self._path.exists()
        self._old = self._path.open("a+b")
        try:
            _lock(self._old, self._path)
            # Another run may have come and gone since the question whether the file exists.
            self._made_here = new and os.fstat(self._old.fileno()).st_size == 0
            self._new = self._part.open("wb")
        except BaseException:
            self._old.close()
            raise
        try:
            if not overwrite:
                self._keep_answers()
        except BaseException:
            self.close()
            raise

    def write(self, record: dict[str, Any]) -> None:
        """Write one line; see `Sink`."""
        if not self._committed:
            self._commit()
        self._new.write(to_line(record))
        # To the kernel, with every line: from then on only the machine's own crash can lose it.
        self._new.flush()

    def finish(self) -> None:
        """Leave errors and torn lines out for good, even when nothing was written."""
        if not self._committed:
            self._commit()
        os.fsync(self._new.fileno())

    def close(self) -> None:
        """Let go of the file; one that was not written to is as it was before."""
        with suppress(OSError):  # the disk is full, which `write` has told of
            self._new.close()
        if not self._committed:
            self._part.unlink(missing_ok=True)
            if self._made_here:
                self._path.unlink(missing_ok=True)
        self._old.close()  # the last step, because it opens the lock

    def _keep_answers(self) -> None:
        self._old.seek(0)
        for answered, line in _answers(self._old, self.name, self._answer):
            if answered not in self.done:
                self.done.add(answered)
                self._new.write(line)

    def _commit(self) -> None:
        self._new.flush()
        os.fsync(self._new.fileno())
        _lock(self._new, self._part)
        shutil.copymode(self._path, self._part)
        self._part.replace(self._path)
        self._committed = True


def record_of(row: Row, result: ItemResult[Classification | Embedding]) -> dict[str, Any]:
    """The line of one item."""
    line: dict[str, Any] = {"id": row.id, "index": row.index}
    if result.error is not None:
        return line | {"error": describe(result.error)}
    answer = result.unwrap()
    of_release = {"release": answer.release, "request_id": answer.request_id}
    if isinstance(answer, Embedding):
        return line | {"vector": vector_json(answer)} | of_release
    ranking = [
        {"label": ranked.label, "probability": ranked.probability} for ranked in answer.ranking
    ]
    return (
        line
        | {"label": answer.label, "probability": answer.probability, "ranking": ranking}
        | of_release
    )


def vector_json(answer: Embedding) -> list[float]:
    """A vector with the 9 digits that tell any two FP32 numbers apart."""
    return [float(f"{value:.9g}") for value in answer.vector.tolist()]


def describe(error: TritiumClientError) -> dict[str, Any]:
    """An error as JSON has it: its exception's name, its message, and what the message leaves out.

    Args:
        error: Of one call.
    """
    if isinstance(error, InvalidInput):
        # Its text counts items within a request, and every request carries one.
        kind = {"kind": "InvalidInput", "message": error.reason, "stage": error.stage}
    else:
        kind = {"kind": type(error).__name__, "message": str(error)}
    return kind | {"retryable": error.retryable}


def to_line(record: dict[str, Any]) -> bytes:
    """One line of JSON in UTF-8; lone surrogates, as in odd file names, become JSON's escapes."""
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _answers(lines: IO[bytes], name: str, answer: str) -> Iterator[tuple[str, bytes]]:
    """Ids and lines of the items that are answered, without errors and a torn last line."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            known = isinstance(record["id"], str) and (answer in record or "error" in record)
        except (ValueError, TypeError, KeyError, RecursionError):
            if not line.endswith(b"\n") and (line.startswith(_START) or _START.startswith(line)):
                return  # a crash tore it: what was asked is asked again
            known = False
        if not known:
            raise WrongUsageError(
                f"line {number} of {name} is none of this command's answers; give another "
                "--output, or --overwrite to replace the file"
            )
        if answer in record:
            yield record["id"], line if line.endswith(b"\n") else line + b"\n"


def _lock(file: IO[bytes], path: Path) -> None:
    """Keep other runs away from a file until it is closed.

    Raises:
        BatchError: another run has it.
    """
    busy = BatchError(f"another run is writing {path}")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise busy from error
    except OSError:
        return  # a file system without locks
    try:
        same = os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        same = False
    if not same:  # another run has just put its own file here
        raise busy
