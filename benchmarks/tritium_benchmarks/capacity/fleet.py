"""The servers of a simulation: queues with an end, batches that form by themselves, faults.

Time is simpy's. What happens once for each request is a callback of one of simpy's events, and not
a process of its own: a process costs several events, and fleets answer millions of requests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import simpy

from tritium_benchmarks.capacity.replica import Draws, Replica

End = Literal["answered", "expired", "gone"]
"""Of an attempt that a server took: computed; not computed, as its caller's time was over; or lost
with its server."""


class Attempt(Protocol):
    """What a server is asked."""

    cost: float
    cancelled: bool
    expires_at: float

    def ended(self, how: End) -> None:
        """Told once, unless it was cancelled while it waited."""


@dataclass
class Served:
    """What all servers did; seconds and counts."""

    busy_s: float = 0.0
    """Of instances, while requests were counted."""
    waited_s: float = 0.0
    waited: int = 0
    """Requests that left a queue to be computed."""
    batches: int = 0


class Server:
    """One replica.

    Args:
        env: The simulation's clock.
        replica: What it is like.
        zone: Where it stands.
        scatter: Draws factors of service times.
        served: Where its work is counted.
    """

    __slots__ = (
        "_env", "_replica", "_running", "_scatter", "_served", "drains", "factor", "gone",
        "waiting", "zone",
    )  # fmt: skip

    def __init__(
        self, env: simpy.Environment, replica: Replica, zone: int, scatter: Draws, served: Served
    ) -> None:
        self._env = env
        self._replica = replica
        self._scatter = scatter
        self._served = served
        self._running: list[list[Attempt]] = []
        self.waiting: deque[tuple[float, Attempt]] = deque()
        self.zone = zone
        self.factor = 1.0
        """Of all its service times: 3.0 for a server that is three times slower."""
        self.drains = False
        """Takes nothing new, and finishes what it has."""
        self.gone = False

    def take(self, attempt: Attempt) -> bool:
        """Take a request; False where nobody is there, or the queue is full."""
        if self.gone or len(self.waiting) >= self._replica.queue:
            return False
        self.waiting.append((self._env.now, attempt))
        if len(self._running) < self._replica.instances:
            self._start()
        return True

    def _start(self) -> None:
        """Give an idle instance what waits, up to a batch."""
        now, served = self._env.now, self._served
        batch: list[Attempt] = []
        cost = 0.0
        while self.waiting and len(batch) < self._replica.max_batch:
            came, attempt = self.waiting.popleft()
            if attempt.cancelled:
                continue
            if attempt.expires_at <= now:
                attempt.ended("expired")
                continue
            served.waited_s += now - came
            served.waited += 1
            cost += attempt.cost
            batch.append(attempt)
        if not batch:
            return
        self._running.append(batch)
        seconds = self._replica.batch_s(cost, len(self._running)) * self.factor * self._scatter()
        served.busy_s += seconds
        served.batches += 1
        after(self._env, seconds, lambda _: self._finish(batch))

    def _finish(self, batch: list[Attempt]) -> None:
        if not any(batch is one for one in self._running):
            return  # lost with its server
        self._running = [one for one in self._running if one is not batch]
        for attempt in batch:
            attempt.ended("answered")
        while self.waiting and len(self._running) < self._replica.instances:
            held = len(self._running)
            self._start()
            if len(self._running) == held:
                break

    def die(self) -> None:
        """Be gone at once, with everything that waits and runs."""
        self.gone = True
        lost = [attempt for batch in self._running for attempt in batch]
        lost += [attempt for _, attempt in self.waiting if not attempt.cancelled]
        self._running = []
        self.waiting.clear()
        for attempt in lost:
            attempt.ended("gone")


def after(env: simpy.Environment, seconds: float, act: Callable[[Any], None]) -> None:
    """Act once, later."""
    callbacks = env.timeout(seconds).callbacks
    assert callbacks is not None  # noqa: S101 - simpy sets it to None when an event has happened
    callbacks.append(act)


@dataclass(frozen=True)
class Troubles:
    """What goes wrong in a fleet."""

    slow_share: float = 0.0
    """Of the servers."""
    slow_factor: float = 3.0
    lost_zone_at_s: float | None = None
    """When every server of zone 0 is gone, connections included, and does not come back."""
    restart_from_s: float | None = None
    """When servers begin to restart one wave after the other: drain, be away, be back."""
    restart_share: float = 0.1
    """Of the servers that restart at a time."""
    restart_away_s: float = 3.0
    """From the last answer until it is ready again."""


def start_troubles(env: simpy.Environment, fleet: list[Server], troubles: Troubles) -> None:
    """Let things go wrong when they shall.

    Args:
        env: The clock.
        fleet: All servers; they have been shuffled over zones.
        troubles: What, and when.
    """
    slow = round(troubles.slow_share * len(fleet))
    for server in fleet[:: max(len(fleet) // slow, 1)][:slow] if slow else ():
        server.factor = troubles.slow_factor
    if troubles.lost_zone_at_s is not None:
        env.process(_lose_zone(env, fleet, troubles.lost_zone_at_s))
    if troubles.restart_from_s is not None:
        env.process(_restart(env, fleet, troubles, troubles.restart_from_s))


def _lose_zone(
    env: simpy.Environment, fleet: list[Server], at_s: float
) -> Generator[simpy.Event, None, None]:
    yield env.timeout(at_s)
    for server in fleet:
        if server.zone == 0:
            server.die()


def _restart(
    env: simpy.Environment, fleet: list[Server], troubles: Troubles, from_s: float
) -> Generator[simpy.Event, None, None]:
    yield env.timeout(from_s)
    size = max(1, round(troubles.restart_share * len(fleet)))
    for first in range(0, len(fleet), size):
        wave = fleet[first : first + size]
        for server in wave:
            server.drains = True
        yield env.timeout(troubles.restart_away_s)
        for server in wave:
            server.drains = False
