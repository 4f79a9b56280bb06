"""One server as the simulation has it: how long batches take, what waits, what it occupies.

replica = Replica(base_s=0.008, each_s=0.025, instances=2, max_batch=8)
replica.peak_per_second
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tritium_builders.configs import MAX_QUEUE

SCATTER_PLACES = 400
"""Quantiles that a distribution of factors is kept as."""


@dataclass(frozen=True)
class Replica:
    """One server. A batch of `n` everyday requests takes `base_s + n * each_s`, times scatter.

    Source of the form: a batch shares what is read and started once (weights, the hop to the
    process) and pays for each request; docs/performance.md has the measured curve.
    """

    base_s: float
    """Seconds of any batch, at full load."""
    each_s: float
    """Seconds that each request adds to its batch, at full load."""
    instances: int = 1
    """Batches that are computed at a time."""
    max_batch: int = 1
    """Requests that one batch takes; what waits is taken at once, as Triton does without delay."""
    queue: int = MAX_QUEUE
    """Requests that may wait; what is over is refused."""
    alone: float = 1.0
    """Time of a batch while no other instance works, as a share of its time while all do: they
    share cores. Above 0, at most 1."""
    outside: tuple[float, ...] = (0.0,)
    """Seconds of a request outside its batch and its queue, equally likely: client, network, steps
    that never queue."""
    scatter: tuple[float, ...] = (1.0,)
    """Factors of a batch's time, equally likely, 1.0 on average."""
    cores: float = 1.0
    gpus: int = 0
    memory_mib: float | None = None
    """None where nobody measured it."""

    def batch_s(self, cost: float, busy: int) -> float:
        """Seconds of a batch, without scatter.

        Args:
            cost: Of all its requests together; 1.0 is an everyday request.
            busy: Instances that compute, this one included.
        """
        full = self.base_s + cost * self.each_s
        if self.instances == 1:
            return full
        share = (busy - 1) / (self.instances - 1)
        return full * (self.alone + (1 - self.alone) * share)

    @property
    def peak_per_second(self) -> float:
        """Requests per second when every batch is full."""
        return self.instances * self.max_batch / (self.base_s + self.max_batch * self.each_s)

    @property
    def alone_p99_s(self) -> float:
        """p99 of a request that meets nobody."""
        seconds = self.batch_s(1.0, busy=1)
        sums = np.add.outer(np.array(self.outside), seconds * np.array(self.scatter))
        return float(np.quantile(sums, 0.99))

    @property
    def outside_s(self) -> float:
        """Mean of `outside`."""
        return float(np.mean(self.outside))


def exponential() -> tuple[float, ...]:
    """Factors of a memoryless service time, as queueing theory's M has it."""
    return _normal(-np.log1p(-_places()))


def spread(
    quantiles: Sequence[float], percents: Sequence[float], count: int = SCATTER_PLACES
) -> tuple[float, ...]:
    """Equally likely values that have these quantiles.

    Args:
        quantiles: Rising.
        percents: Which quantiles they are, rising.
        count: Of the values.
    """
    values = np.interp(100 * _places(count), percents, quantiles)
    return tuple(values.tolist())


def factors(values: Sequence[float]) -> tuple[float, ...]:
    """The same values over their mean."""
    return _normal(np.array(values))


def _places(count: int = SCATTER_PLACES) -> npt.NDArray[np.float64]:
    return (np.arange(count) + 0.5) / count


def _normal(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple((values / values.mean()).tolist())


class Draws(Protocol):
    """Random numbers, one after the other."""

    def __call__(self) -> float:
        """The next one."""


def drawn(values: tuple[float, ...], random: np.random.Generator, block: int = 8192) -> Draws:
    """Draw from equally likely values, a block at a time: one at a time takes a microsecond each.

    Args:
        values: At least one.
        random: Where chance comes from.
        block: Drawn together.
    """
    if len(set(values)) == 1:
        only = values[0]
        return lambda: only
    table = np.array(values)
    left: list[float] = []

    def draw() -> float:
        if not left:
            left.extend(table[random.integers(0, len(table), block)].tolist())
        return left.pop()

    return draw
