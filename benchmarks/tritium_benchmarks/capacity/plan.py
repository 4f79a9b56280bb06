"""From a load and a bound to replicas: the fewest that hold it with one zone lost.

plan = make_plan(Wanted(rps=2000, p99_ms=80), replica)
plan.replicas, plan.cores, plan.lost.p99_ms
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from tritium_benchmarks.capacity.arrivals import Arrivals
from tritium_benchmarks.capacity.balancing import DEFAULT_POLICY, Policy, policy_of
from tritium_benchmarks.capacity.replica import Replica
from tritium_benchmarks.capacity.simulation import Outcome, Scenario, simulate
from tritium_benchmarks.errors import PlanError

MOST_FAILED = 0.001
"""Share of the calls that may be refused or time out."""
SLICE = 200
"""Replicas that the search simulates at most: a larger fleet is as many such slices side by side,
as no client knows more than its subset. docs/capacity-planning.md compares both."""
STEADY_S = 4.0
BURSTY_S = 60.0
"""As many bursts as make p99 a figure, and no accident."""
MARGIN = 0.33
"""Share of the bound that a plan leaves free: beside one server that computes, which shared its
cores with whoever asked it, the simulated p99 was up to 31 % too short (`demo_places` in
capacity.json)."""
LEAST_USED = 0.02
"""Where servers are this idle, more of them do not help."""
OnTry = Callable[[str, float], None]
"""Told what is simulated, and which share of it is done."""


@dataclass(frozen=True)
class Wanted:
    """What a plan has to hold."""

    rps: float
    """Requests per second of all callers, in the busiest hour."""
    p99_ms: float
    zones: int = 3
    """1 for no zone to lose."""
    burstiness: float = 1.0
    headroom: float = 0.1
    """What the load may grow beyond `rps` before the bound breaks."""
    policy: Policy = field(default_factory=lambda: policy_of(DEFAULT_POLICY))
    margin: float = 0.0
    """Share of `p99_ms` that the simulation leaves free, 0 to below 1; `MARGIN` is measured."""
    seed: int = 0
    calls: int = 20_000
    """Of each simulation, at least: p99 of fewer is a matter of chance."""

    def __post_init__(self) -> None:
        """Refuse what can never be right.

        Raises:
            PlanError: naming the field.
        """
        if not (math.isfinite(self.rps) and self.rps > 0):
            raise PlanError(f"--rps must be more than 0 requests per second: {self.rps:g}")
        if not (math.isfinite(self.p99_ms) and self.p99_ms > 0):
            raise PlanError(f"--p99-ms must be more than 0 milliseconds: {self.p99_ms:g}")
        if self.zones < 1:
            raise PlanError(f"--zones must be at least 1: {self.zones}")
        if self.headroom < 0:
            raise PlanError(f"--headroom must not be negative: {self.headroom:g}")
        if not 0 <= self.margin < 1:
            raise PlanError(f"--margin must be at least 0 and below 1: {self.margin:g}")
        Arrivals(self.rps, self.burstiness)

    @property
    def aim_ms(self) -> float:
        """What the simulated p99 has to stay below, milliseconds."""
        return self.p99_ms * (1 - self.margin)

    @property
    def bound(self) -> str:
        """For messages."""
        aim = f" ({self.aim_ms:.0f} simulated, see --margin)" if self.margin else ""
        return f"{self.p99_ms:g} ms{aim}"

    @property
    def surviving(self) -> int:
        """Zones that carry the load when one is lost."""
        return max(self.zones - 1, 1)


@dataclass(frozen=True)
class Plan:
    """How many servers, and what they will be like."""

    wanted: Wanted
    replica: Replica
    per_zone: int
    whole: Outcome
    """Simulated at `rps`, with every zone."""
    lost: Outcome
    """Simulated at `rps`, with one zone less."""
    grown: Outcome
    """Simulated at `rps` with the headroom used up, one zone less: what the search decided by."""

    @property
    def replicas(self) -> int:
        """All of them."""
        return self.per_zone * self.wanted.zones

    @property
    def cores(self) -> float:
        """Of all replicas."""
        return self.replicas * self.replica.cores

    @property
    def gpus(self) -> int:
        """Of all replicas."""
        return self.replicas * self.replica.gpus

    @property
    def memory_gib(self) -> float | None:
        """Of all replicas; None where it was not measured."""
        if self.replica.memory_mib is None:
            return None
        return self.replicas * self.replica.memory_mib / 1024

    @property
    def queued_target(self) -> float:
        """Requests that wait in a replica at which an autoscaler should add some.

        Half way between a day with every zone and the most that the plan holds: below it nothing
        is wrong, and above it there is still time.
        """
        return math.sqrt(max(self.whole.queued, 1e-3) * max(self.grown.queued, 1e-3))

    @property
    def queue_alert_ms(self) -> float:
        """Mean time in a queue above which the bound is about to break."""
        return self.grown.queue_ms


def make_plan(wanted: Wanted, replica: Replica, on_try: OnTry = lambda *_: None) -> Plan:
    """Search the fewest replicas that hold the load with one zone lost.

    Args:
        wanted: The load and the bound.
        replica: What one server does.
        on_try: Told what is tried.

    Raises:
        PlanError: no number of servers keeps the bound.
    """
    alone_ms = 1000 * replica.alone_p99_s
    if alone_ms > wanted.aim_ms:
        raise PlanError(
            f"no number of servers keeps p99 under {wanted.bound}: a request that meets "
            f"nobody takes {alone_ms:.1f} ms there; make the model faster (`tritium bench tune`, "
            "`tritium build --precision auto`), or ask for more milliseconds"
        )
    rate = wanted.rps * (1 + wanted.headroom)

    def tried(per_zone: int) -> Outcome:
        on_try(f"{per_zone * wanted.surviving} replicas", 0.0)
        return _simulated(wanted, replica, per_zone, wanted.surviving, rate, on_try)

    per_zone, grown = _fewest(wanted, replica, rate, tried)
    whole = _simulated(wanted, replica, per_zone, wanted.zones, wanted.rps, on_try)
    lost = _simulated(wanted, replica, per_zone, wanted.surviving, wanted.rps, on_try)
    return Plan(wanted, replica, per_zone, whole, lost, grown)


def _fewest(
    wanted: Wanted, replica: Replica, rate: float, tried: Callable[[int], Outcome]
) -> tuple[int, Outcome]:
    """Double until the bound holds, then halve the interval."""

    def holds(outcome: Outcome) -> bool:
        return outcome.p99_ms <= wanted.aim_ms and outcome.failed <= MOST_FAILED

    too_few = max(math.ceil(rate / replica.peak_per_second / wanted.surviving) - 1, 0)
    enough = too_few + 1
    while not holds(found := tried(enough)):
        if found.utilisation < LEAST_USED:
            raise PlanError(
                f"no number of servers keeps p99 under {wanted.bound} under this load: it is "
                f"{found.p99_ms:.0f} ms where they are {found.utilisation:.0%} busy; ask for more "
                "milliseconds, or for less burstiness"
            )
        too_few, enough = enough, math.ceil(1.5 * enough) + 1
    while enough - too_few > max(1, enough // 100):
        middle = (too_few + enough) // 2
        outcome = tried(middle)
        if holds(outcome):
            enough, found = middle, outcome
        else:
            too_few = middle
    return enough, found


def _simulated(
    wanted: Wanted, replica: Replica, per_zone: int, zones: int, rate: float, on_try: OnTry
) -> Outcome:
    """A fleet under a rate, or a slice of it where it is large."""
    count = per_zone * zones
    slices = max(count / SLICE, 1.0)
    replicas = max(round(count / slices / zones), 1) * zones
    arrivals = Arrivals(rate * replicas / count, wanted.burstiness)
    steady = STEADY_S if wanted.burstiness == 1 else BURSTY_S
    scenario = Scenario(
        replica,
        replicas,
        arrivals,
        wanted.policy,
        zones=zones,
        seconds=max(steady, wanted.calls / arrivals.rate),
        seed=wanted.seed,
    )
    text = f"{count} replicas"
    return simulate(scenario, lambda share: on_try(text, share))
