"""Which policy holds the tail: fleets over load, in trouble, and from a hundred to ten thousand.

for tail in tails(replica, 100): tail.policy, tail.load, tail.p99_ms
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tritium_benchmarks.capacity.arrivals import Arrivals
from tritium_benchmarks.capacity.balancing import HEDGING, POLICIES, policy_of
from tritium_benchmarks.capacity.fleet import Troubles
from tritium_benchmarks.capacity.replica import Replica
from tritium_benchmarks.capacity.simulation import Outcome, Scenario, simulate
from tritium_benchmarks.records import Kept, short

ZONES = 3
FLEET = 99
"""Divides by the zones."""
LOADS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
COMPARED = (*POLICIES, f"round-robin{HEDGING}", f"envoy{HEDGING}")
TROUBLED_LOAD = 0.45
SIZES = (99, 999, 9999)
SIZE_POLICIES = ("round-robin", "round-robin+hedging", "envoy")
HEAVY = ((0.95, 1.0), (0.05, 2.5))
"""One picture in twenty has twelve megapixels: 2.5 times the work (docs/performance.md)."""
OnTry = Callable[[str, float], None]


class Tail(Kept):
    """One fleet under one load with one policy."""

    what: str
    policy: str
    replicas: int
    load: float
    """Share of what the fleet can answer at most."""
    calls: int
    p50_ms: float
    p99_ms: float
    failed: float
    hedged: float
    """Share of the calls."""
    took_s: float
    """Real seconds of the simulation."""


@dataclass(frozen=True)
class Weather:
    """A kind of load, or of trouble."""

    burstiness: float = 1.0
    kinds: tuple[tuple[float, float], ...] = ((1.0, 1.0),)
    troubles: Troubles = field(default_factory=Troubles)
    seconds: float = 10.0


WEATHERS: Mapping[str, Weather] = {
    "all well": Weather(),
    "bursts of 2 times the rate": Weather(burstiness=2.0, seconds=30.0),
    "5 % of the requests 2.5 times the work": Weather(kinds=HEAVY),
    "5 % of the replicas 3 times slower": Weather(troubles=Troubles(slow_share=0.05)),
    "a zone lost": Weather(troubles=Troubles(lost_zone_at_s=4.0)),
    "rolling restart, 10 % at a time": Weather(troubles=Troubles(restart_from_s=3.0), seconds=32.0),
}


def tails(
    replica: Replica,
    replicas: int = FLEET,
    *,
    policies: Sequence[str] = COMPARED,
    loads: Sequence[float] = LOADS,
    on_try: OnTry = lambda *_: None,
) -> list[Tail]:
    """A fleet over its load, with every policy.

    Args:
        replica: What one server does.
        replicas: Of the fleet.
        policies: By name.
        loads: Shares of what the fleet can answer at most.
        on_try: Told what is simulated.
    """
    fleet = max(round(replicas / ZONES), 1) * ZONES
    return [
        _tail("all well", replica, fleet, name, load, Weather(), on_try)
        for load in loads
        for name in policies
    ]


def troubled(
    replica: Replica, policies: Sequence[str] = COMPARED, on_try: OnTry = lambda *_: None
) -> list[Tail]:
    """What goes wrong, with every policy."""
    return [
        _tail(what, replica, FLEET, name, TROUBLED_LOAD, weather, on_try)
        for what, weather in WEATHERS.items()
        for name in policies
    ]


def sizes(
    replica: Replica, counts: Sequence[int] = SIZES, on_try: OnTry = lambda *_: None
) -> list[Tail]:
    """The same load for each replica, in ever larger fleets."""
    weather = Weather(seconds=2.0, troubles=Troubles(slow_share=0.05))
    return [
        _tail("5 % of the replicas 3 times slower", replica, count, name, TROUBLED_LOAD,
              replace(weather, seconds=max(1.0, 2000 / count)), on_try)
        for count in counts
        for name in SIZE_POLICIES
    ]  # fmt: skip


def _tail(
    what: str, replica: Replica, count: int, name: str, load: float, weather: Weather, tell: OnTry
) -> Tail:
    arrivals = Arrivals(1.0, weather.burstiness, kinds=weather.kinds)
    rate = load * count * replica.peak_per_second
    scenario = Scenario(
        replica, count, replace(arrivals, rate=rate), policy_of(name), zones=ZONES,
        troubles=weather.troubles, seconds=weather.seconds,
    )  # fmt: skip
    text = f"{what}: {count} replicas, {load:.0%}, {name}"
    tell(text, 0.0)
    return _told(what, name, scenario, load, simulate(scenario, lambda done: tell(text, done)))


def _told(what: str, name: str, scenario: Scenario, load: float, outcome: Outcome) -> Tail:
    return Tail(
        what=what,
        policy=name,
        replicas=scenario.replicas,
        load=load,
        calls=outcome.calls,
        p50_ms=short(outcome.p50_ms),
        p99_ms=short(outcome.p99_ms),
        failed=short(outcome.failed),
        hedged=short(outcome.hedges / max(outcome.calls, 1)),
        took_s=short(outcome.took_s),
    )
