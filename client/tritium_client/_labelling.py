"""A sample of what an app was asked, for people to label: the next round's training data."""

from __future__ import annotations

import atexit
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tritium_client._labelling_files import Row, Store
from tritium_client._logging import logger
from tritium_client.contract import Modality

if TYPE_CHECKING:
    from typing_extensions import Self

PENDING_ROWS = 256
PENDING_BYTES = 32 << 20
"""What may wait for the disk; more is dropped."""
LOG_EVERY_S = 60.0
CLOSE_S = 5.0


@dataclass(frozen=True)
class LabellingCounts:
    """What became of the requests that a labelling queue sampled."""

    sampled: int = 0
    """Chosen by chance; each of them is counted below as soon as that is known."""
    written: int = 0
    duplicates: int = 0
    """The same text and picture is in the queue already."""
    dropped: int = 0
    """The disk was slower than the requests came."""
    full: int = 0
    """The folder has no room for it within `max_bytes`."""
    failed: int = 0
    """It could not be written; the log says why."""


class LabellingQueue:
    """Writes a sample of what is classified to a folder, for people to label.

    For each app there is a manifest, `<app>.jsonl`, with text, picture, answer, probability,
    release and an empty label. With the labels filled in, it is what `tritium train --from ...
    --data` reads. Only requests with both text and picture are sampled: training needs both.

    No call waits for the disk, or fails because of it: rows are handed to a thread, and what it
    cannot take is dropped and counted. Several clients may share a queue, and several processes a
    folder. What callers send is written as it is, readable for the folder's owner alone.

    Args:
        folder: Made when it is not there.
        percent: Share of requests that is sampled, 0 to 100.
        uncertain_below: Answers less probable than that are sampled by `uncertain_percent` instead
            (uncertainty sampling, Lewis and Gale 1994); 0 to 1, and 0 for none.
        uncertain_percent: Share of those that is sampled, 0 to 100.
        max_bytes: What all rows and pictures in the folder may have together.

    Raises:
        ValueError: a share or size could never be right, or the folder cannot be written.

    Examples:
        >>> queue = LabellingQueue("queue", percent=1, uncertain_below=0.5, uncertain_percent=20)
        >>> with Client("localhost:8001", app="openmoji", labelling_queue=queue) as client:
        ...     client.classify(text="red apple", image="apple.png")
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        percent: float = 1.0,
        uncertain_below: float = 0.0,
        uncertain_percent: float = 10.0,
        max_bytes: int = 100_000_000,
    ) -> None:
        for name, value, most in (
            ("percent", percent, 100),
            ("uncertain_percent", uncertain_percent, 100),
            ("uncertain_below", uncertain_below, 1),
        ):
            if not 0 <= value <= most:
                raise ValueError(f"{name} must be between 0 and {most}: {value}")
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1: {max_bytes}")
        self.folder = Path(folder)
        self._percent, self._uncertain_percent = percent, uncertain_percent
        self._uncertain_below = uncertain_below
        try:
            self._store = Store(self.folder, max_bytes)
        except OSError as error:
            raise ValueError(
                f"the labelling queue {self.folder} cannot be written: {error.strerror}"
            ) from error
        self._closed = False
        self._begin()
        _close_at_exit(self)

    def offer(
        self,
        app: str,
        inputs: Mapping[Modality, bytes],
        labels: Sequence[str],
        probabilities: npt.NDArray[np.float32],
        release: int,
    ) -> None:
        """Sample a request that was answered; the client calls this. Returns at once.

        Args:
            app: The app that answered.
            inputs: Text in UTF-8 and encoded picture.
            labels: The release's.
            probabilities: FP32 [labels].
            release: Its number.
        """
        if self._closed or len(inputs) < 2:
            return
        best = int(probabilities.argmax())
        probability = float(probabilities[best])
        uncertain = probability < self._uncertain_below
        percent = self._uncertain_percent if uncertain else self._percent
        if random.random() * 100 >= percent:  # noqa: S311 - a sample, no secret
            return
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        row = Row(app, inputs["text"], inputs["image"], labels[best], probability, release, now)
        self._put(row)

    @property
    def counts(self) -> LabellingCounts:
        """What became of what was sampled by now, in this process."""
        with self._changed:
            return self._counts

    def flush(self, timeout_s: float = CLOSE_S) -> bool:
        """Wait until all that was sampled is on disk, or counted as lost.

        Args:
            timeout_s: Seconds to wait at the most.

        Returns:
            Whether it is.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending and not self._busy, timeout_s)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Sample nothing any more, and write what waits. Twice is fine.

        Args:
            timeout_s: Seconds to wait at the most.
        """
        self._closed = True
        with self._changed:
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and self._process == os.getpid():
            thread.join(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _begin(self) -> None:
        """Start from nothing: in a forked process locks may be held by threads that it lacks."""
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._pending: deque[Row] = deque()
        self._pending_bytes = 0
        self._busy = False
        self._thread: threading.Thread | None = None
        self._counts = LabellingCounts()
        self._logged_at = -LOG_EVERY_S

    def _put(self, row: Row) -> None:
        if self._process != os.getpid():
            self._begin()
        size = len(row.text) + len(row.image)
        with self._changed:
            full = self._pending_bytes + size > PENDING_BYTES or len(self._pending) >= PENDING_ROWS
            self._count("sampled")
            if full:
                self._count("dropped")
                return
            self._pending.append(row)
            self._pending_bytes += size
            if self._thread is None:
                self._start()
            self._changed.notify_all()

    def _start(self) -> None:
        thread = threading.Thread(target=self._write, name="tritium-labelling", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the process may start no thread, or is about to end
            self._count("dropped", len(self._pending))
            self._pending.clear()
            self._pending_bytes = 0
        else:
            self._thread = thread

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closed)
                rows = list(self._pending)
                self._pending.clear()
                self._pending_bytes = 0
                self._busy = True
            for row in rows:
                self._write_row(row)
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                if self._closed and not self._pending:
                    return

    def _write_row(self, row: Row) -> None:
        outcome = "failed"
        try:
            outcome = self._store.add(row)
        except OSError as error:
            if time.monotonic() - self._logged_at >= LOG_EVERY_S:
                self._logged_at = time.monotonic()
                logger.warning("the labelling queue %s cannot be written: %s", self.folder, error)
        with self._changed:
            self._count(outcome)

    def _count(self, outcome: str, count: int = 1) -> None:
        self._counts = replace(self._counts, **{outcome: getattr(self._counts, outcome) + count})


def _close_at_exit(queue: LabellingQueue) -> None:
    """Write what waits when the process ends, without keeping the queue alive until then."""
    reference = weakref.ref(queue)

    def close() -> None:
        left = reference()
        if left is not None:
            left.close()

    atexit.register(close)
