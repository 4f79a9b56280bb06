"""Simulate a fleet under a load: what callers see, and how busy the servers are.

outcome = simulate(Scenario(replica, replicas=100, arrivals=Arrivals(2000)))
outcome.p99_ms, outcome.failed, outcome.utilisation

The same scenario gives the same outcome: every draw comes from its seed.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import simpy

from tritium_benchmarks.capacity.arrivals import Arrivals, Times
from tritium_benchmarks.capacity.balancing import (
    DEFAULT_POLICY,
    PROXIES_IN_A_ZONE,
    Policy,
    policy_of,
    subsets,
)
from tritium_benchmarks.capacity.calls import Caller, Tally
from tritium_benchmarks.capacity.fleet import (
    Served,
    Server,
    Troubles,
    after,
    start_troubles,
)
from tritium_benchmarks.capacity.replica import Draws, Replica, drawn
from tritium_client._retries import RetryPolicy

TOLD_EVERY = 2000
"""Requests between two reports of progress."""
OnProgress = Callable[[float], None]
"""Told which share of the requests has come."""


@dataclass(frozen=True)
class Scenario:
    """What is simulated."""

    replica: Replica
    replicas: int
    arrivals: Arrivals
    policy: Policy = field(default_factory=lambda: policy_of(DEFAULT_POLICY))
    zones: int = 1
    clients: int | None = None
    """None for one on every two replicas, and no fewer than 10."""
    subset: int = 20
    """Servers that a client knows; all of a smaller fleet."""
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    troubles: Troubles = field(default_factory=Troubles)
    timeout_s: float = 10.0
    seconds: float = 20.0
    """Requests that come in this time are counted; all of them are waited for."""
    warm_up_s: float = 2.0
    """Before that."""
    seed: int = 0
    times: tuple[float, ...] | None = None
    """When requests come, in place of chance: a measurement's own arrivals."""


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    calls: int
    """That came while they were counted; each was answered, refused or timed out."""
    latencies_ms: npt.NDArray[np.float64] = field(repr=False)
    refused: int
    timed_out: int
    sent: int
    retries: int
    hedges: int
    seconds: float
    """Of the window that was counted."""
    utilisation: float
    """Busy instances over all instances, the lost ones included."""
    queued: float
    """Requests that waited in one server's queue, on average over time (Little's law)."""
    queue_ms: float
    """That a request waited on average."""
    batch: float
    """Requests of a batch, on average."""
    took_s: float = field(compare=False)

    @property
    def failed(self) -> float:
        """Share of the calls that were refused or timed out."""
        return (self.refused + self.timed_out) / max(self.calls, 1)

    @property
    def per_second(self) -> float:
        """Answers per second."""
        return len(self.latencies_ms) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """Milliseconds within which so many of the answers came; infinite where there are none."""
        if not len(self.latencies_ms):
            return math.inf
        return float(np.percentile(self.latencies_ms, percent))

    @property
    def p50_ms(self) -> float:
        """Half of the answers came sooner."""
        return self.percentile_ms(50)

    @property
    def p95_ms(self) -> float:
        """All answers but one in twenty came sooner."""
        return self.percentile_ms(95)

    @property
    def p99_ms(self) -> float:
        """All answers but one in a hundred came sooner."""
        return self.percentile_ms(99)


def simulate(scenario: Scenario, on_progress: OnProgress = lambda _: None) -> Outcome:
    """Run one scenario to its end.

    Args:
        scenario: What is simulated.
        on_progress: Told now and then how far it is.
    """
    began = time.perf_counter()
    world = _World(scenario)
    with _no_collector():
        world.env.process(world.arrive(on_progress))
        world.env.run(until=scenario.warm_up_s + scenario.seconds)
        counted = Served(**vars(world.served))
        world.env.run()
    return world.outcome(counted, time.perf_counter() - began)


class _World:
    """The clock, the fleet, those who ask it, and what is counted."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.env = simpy.Environment()
        self.random = np.random.default_rng(scenario.seed)
        self.served = Served()
        self.warm = Served()
        """What was served before anything counted."""
        scatter = drawn(scenario.replica.scatter, self.random)
        self.fleet = self._servers(scatter)
        self.callers = self._callers()
        self.before, self.tally = Tally(), Tally()
        lost_at_s = scenario.troubles.lost_zone_at_s
        if scenario.policy.by_proxy and lost_at_s is not None:
            # Before the zone's servers are gone: what ends there is then sent to another proxy.
            after(self.env, lost_at_s, lambda _: self._lose_proxies())
        start_troubles(self.env, self.fleet, scenario.troubles)

    def _servers(self, scatter: Draws) -> list[Server]:
        count, zones = self.scenario.replicas, self.scenario.zones
        return [
            Server(self.env, self.scenario.replica, index % zones, scatter, self.served)
            for index in range(count)
        ]

    def _callers(self) -> list[Caller]:
        scenario, fleet = self.scenario, self.fleet
        outside = drawn(scenario.replica.outside, self.random)
        if scenario.policy.by_proxy:
            known = [
                [index for index, server in enumerate(fleet) if server.zone == zone]
                for zone in range(scenario.zones)
                for _ in range(PROXIES_IN_A_ZONE)
            ]
        else:
            clients = scenario.clients or max(10, scenario.replicas // 2)
            size = min(scenario.subset, scenario.replicas)
            known = [list(one) for one in subsets(len(fleet), clients, size, scenario.seed)]
        return [
            Caller(
                self.env,
                [fleet[index] for index in indices],
                scenario.policy,
                timeout_s=scenario.timeout_s,
                outside=outside,
                outside_s=scenario.replica.outside_s,
                retries=scenario.retries,
                chance=random.Random(f"{scenario.seed} {number}"),  # noqa: S311 - a simulation
            )
            for number, indices in enumerate(known)
        ]

    def _lose_proxies(self) -> None:
        """Those of the lost zone are gone with it."""
        for lost in self.callers[:PROXIES_IN_A_ZONE]:
            lost.successors = self.callers[PROXIES_IN_A_ZONE:]

    def arrive(self, on_progress: OnProgress) -> Generator[simpy.Event, None, None]:
        """Let every request come when it is due, to a caller by chance."""
        scenario, env = self.scenario, self.env
        times = self._times()
        costs = scenario.arrivals.costs(len(times), self.random).tolist()
        whose = self.random.integers(0, len(self.callers), len(times)).tolist()
        warm = scenario.warm_up_s
        requests = zip(times.tolist(), costs, whose, strict=True)
        for number, (due, cost, caller) in enumerate(requests):
            if due > env.now:
                yield env.timeout(due - env.now)
            if not self.tally.came and due >= warm:
                self.warm = Served(**vars(self.served))
            self.callers[caller].call(cost, self.tally if due >= warm else self.before)
            if number % TOLD_EVERY == 0:
                on_progress(number / len(times))

    def _times(self) -> Times:
        scenario = self.scenario
        if scenario.times is not None:
            return np.array(scenario.times) + scenario.warm_up_s
        return scenario.arrivals.times(scenario.warm_up_s + scenario.seconds, self.random)

    def outcome(self, counted: Served, took_s: float) -> Outcome:
        """Sum up.

        Args:
            counted: What had been served when the last request came.
            took_s: Real seconds.
        """
        scenario, tally = self.scenario, self.tally
        waited = counted.waited - self.warm.waited
        waited_s = counted.waited_s - self.warm.waited_s
        instances = scenario.replicas * scenario.replica.instances
        return Outcome(
            calls=tally.came,
            latencies_ms=1000 * np.array(tally.latencies_s, dtype=np.float64),
            refused=tally.refused,
            timed_out=tally.timed_out,
            sent=tally.sent,
            retries=tally.retries,
            hedges=tally.hedges,
            seconds=scenario.seconds,
            utilisation=(counted.busy_s - self.warm.busy_s) / (instances * scenario.seconds),
            queued=waited_s / (scenario.seconds * scenario.replicas),
            queue_ms=1000 * waited_s / max(waited, 1),
            batch=waited / max(counted.batches - self.warm.batches, 1),
            took_s=took_s,
        )


@contextmanager
def _no_collector() -> Iterator[None]:
    """Millions of small objects that are all freed by count: the collector would walk them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
