"""What `tritium bench tune` tries: settings of the encoders, one question after the other.

Trying every combination would take hours. The questions are asked in the order of what they are
worth; each starts from the best answer so far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tritium_deploy.tuning import ComponentTuning, Tuning

BATCHES = (1, 4, 8, 16, 32)
DELAYS_US = (0, 1000, 4000)


@dataclass(frozen=True)
class Setting:
    """How a release's encoders run."""

    instances: int
    threads: int
    """0 for all cores."""
    streams: int
    max_batch: int
    max_queue_delay_us: int
    pin: bool

    def __str__(self) -> str:
        """For people, on one line."""
        threads = "all" if self.threads == 0 else str(self.threads)
        return (
            f"{self.instances} x {self.streams} streams x {threads} threads, "
            f"batch {self.max_batch}, delay {self.max_queue_delay_us} us"
            f"{', pinned' if self.pin else ''}"
        )

    def tuning(self, app: str) -> Tuning:
        """As what `serve` takes."""
        encoders = ComponentTuning(
            instances=self.instances,
            threads=self.threads,
            streams=self.streams,
            max_batch=self.max_batch,
            max_queue_delay_us=self.max_queue_delay_us,
            pin=self.pin,
        )
        return Tuning(app=app, components={"encoders": encoders})


@dataclass(frozen=True)
class Question:
    """One thing to find out, and its possible answers."""

    about: str
    answers: Callable[[Setting], list[Setting]]
    """From the best setting so far to those to try; it need not be among them."""


def questions(cores: int) -> list[Question]:
    """What is asked, in this order.

    Args:
        cores: That the server may use; instances x streams x threads stays within them.
    """
    return [
        Question("instances, streams and threads", lambda best: _layouts(best, cores)),
        Question("cores", lambda best: [replace(best, pin=pin) for pin in (False, True)]),
        Question("batch", lambda best: [replace(best, max_batch=batch) for batch in BATCHES]),
        Question(
            "queue delay",
            lambda best: [replace(best, max_queue_delay_us=delay) for delay in DELAYS_US],
        ),
    ]


def _layouts(best: Setting, cores: int) -> list[Setting]:
    """Every way to share the cores out that uses powers of two, and the one that shares nothing."""
    counts = [count for count in (1, 2, 4, 8, 16, 32, 64) if count <= cores]
    found = [
        replace(best, instances=instances, streams=streams, threads=threads)
        for instances in counts
        for streams in counts
        for threads in counts
        if instances * streams * threads <= cores
    ]
    return [replace(best, instances=1, streams=1, threads=0), *found]
