"""How far the simulator is off: the same loads on real servers, and simulated.

    validation = validate(ValidateOptions(), on_step=print)

Three real tritonservers share this machine's cores, so theirs is an app that sleeps in place of
computing (sdk/quick_server.py): they do not take anything from each other, and everything else is
real: Triton's queues and batches, gRPC, the SDK's rotation and hedges. The service times given to
the simulator are fitted to a measurement of one of them, never to the loads that are compared; the
arrivals are those of the measurement, to the millisecond.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from tritium_benchmarks.callers import TIMEOUT_S, Caller
from tritium_benchmarks.capacity.arrivals import Arrivals
from tritium_benchmarks.capacity.balancing import policy_of
from tritium_benchmarks.capacity.fit import fit
from tritium_benchmarks.capacity.fleet import Troubles
from tritium_benchmarks.capacity.measure import (
    AnyLoad,
    MeasureOptions,
    OnStep,
    Target,
    measure_replica,
    open_place,
)
from tritium_benchmarks.capacity.record import OpenPlace, ReplicaRecord
from tritium_benchmarks.capacity.replica import Replica
from tritium_benchmarks.capacity.simulation import Scenario, simulate
from tritium_benchmarks.capacity.validated import BOUNDED, Compared, Piles
from tritium_benchmarks.driver import Load, pile, poisson_times
from tritium_benchmarks.records import short
from tritium_benchmarks.sdk.quick_server import APP, Sleeps, quick_server
from tritium_builders.configs import MAX_QUEUE
from tritium_client import AsyncClient, HedgePolicy, RetryPolicy, contract

SLEEPS = Sleeps(base_s=0.040, each_s=0.008, max_batch=8)
"""Long beside what a busy machine adds, and as curved as an encoder's batches."""
SLOWER = 3.0
PILE = 104
"""Requests at once: 13 full batches."""
PILE_TURNS = 4
TEXT = "red apple"
SERVICE_SECONDS = 2.0
NEVER = RetryPolicy(attempts=1)


@dataclass(frozen=True)
class ValidateOptions:
    """What is compared."""

    servers: tuple[int, ...] = (1, 2, 3)
    shares: tuple[float, ...] = (0.3, 0.5, 0.7, 0.85)
    overload: float = 1.4
    """Of one server."""
    slow_share: float = 0.25
    """Load of three servers of which one is slower, with hedging and without: of what they would
    answer if none was. The slow one has to keep up."""
    bounded_shares: tuple[float, ...] = (0.5, 1.4)
    """Of one server whose queue has an end."""
    seconds: float = 10.0
    """Of each load."""


@dataclass(frozen=True)
class Validated:
    """What came of it."""

    sleeper: ReplicaRecord
    places: tuple[Compared, ...]
    piles: Piles


def validate(
    options: ValidateOptions | None = None, on_step: OnStep = lambda *_: None
) -> Validated:
    """Measure and simulate every load.

    Raises:
        StartError: a server does not start.
        BenchmarkError: one does not answer.
    """
    options = options or ValidateOptions()
    most = max(options.servers)
    with ExitStack() as stack:
        urls = [stack.enter_context(quick_server(sleeps=SLEEPS)).url for _ in range(most)]
        slower = replace(SLEEPS, base_s=SLOWER * SLEEPS.base_s, each_s=SLOWER * SLEEPS.each_s)
        bounded = stack.enter_context(quick_server(max_queue=MAX_QUEUE, sleeps=SLEEPS)).url
        slow_url = stack.enter_context(quick_server(sleeps=slower)).url
        on_step("one server alone", 0, 1)
        sleeper = measure_replica(_target(urls[0]), MeasureOptions(SERVICE_SECONDS, shares=()))
        loads = _loads(options, fit(sleeper), urls, slow_url, bounded)
        compared = []
        for number, load in enumerate(loads):
            on_step(load.what, number, len(loads))
            compared.append(load.compare(options.seconds, seed=number))
        on_step("piles", len(loads), len(loads) + 1)
        piles = measure_piles(urls[0], bounded)
    return Validated(sleeper, tuple(compared), piles)


def measure_piles(endless: str, bounded: str) -> Piles:
    """So many requests at once and none after them, in turns: how long until all are answered.

    Args:
        endless: A server whose queue has no end.
        bounded: One whose queue has.
    """

    def seconds(url: str) -> float:
        load: Load = _target(url).hold(lambda caller: pile(caller, items=PILE, in_flight=PILE))
        return short(load.seconds)

    turns = [(seconds(endless), seconds(bounded)) for _ in range(PILE_TURNS)]
    batches = -(-PILE // SLEEPS.max_batch)
    return Piles(
        requests=PILE,
        batches=batches,
        least_s=short(batches * (SLEEPS.base_s + SLEEPS.max_batch * SLEEPS.each_s)),
        endless_s=tuple(one for one, _ in turns),
        bounded_s=tuple(other for _, other in turns),
    )


def compare_alone(record: ReplicaRecord) -> list[Compared]:
    """The sweep over rates of one measured server, simulated from its service times."""
    replica = fit(record)
    return [
        _simulated(
            place, Scenario(replica, 1, Arrivals(place.rate), retries=NEVER, clients=1),
            f"{record.app}, {place.rate:.0f}/s", place.rate / replica.peak_per_second,
        )
        for place in record.places
    ]  # fmt: skip


@dataclass(frozen=True)
class _Load:
    """One load on some of the servers."""

    what: str
    share: float
    urls: Sequence[str]
    scenario: Scenario

    def compare(self, seconds: float, seed: int) -> Compared:
        hedging = self.scenario.policy.hedging

        def hold_load(load: AnyLoad) -> Any:
            async def run() -> Any:
                async with AsyncClient(
                    list(self.urls), app=APP, retries=self.scenario.retries, max_in_flight=10_000,
                    hedging=HedgePolicy() if hedging else None,
                ) as client:  # fmt: skip
                    return await load(_caller(client))

            return asyncio.run(run())

        place = open_place(hold_load, self.scenario.arrivals.rate, seconds, seed)
        return _simulated(place, self.scenario, self.what, self.share)


def _loads(
    options: ValidateOptions, replica: Replica, urls: Sequence[str], slow_url: str, bounded: str
) -> list[_Load]:
    peak = replica.peak_per_second
    loads = []

    def add(what: str, share: float, servers: Sequence[str], scenario: Scenario) -> None:
        rate = share * peak * len(servers)
        arrivals = Arrivals(rate)
        loads.append(_Load(what, share, servers, replace(scenario, arrivals=arrivals)))

    for share in options.shares:  # in turns, so that a busy minute hits every number of servers
        for count in options.servers:
            plain = Scenario(replica, count, Arrivals(1), retries=NEVER, clients=1)
            add("round robin", share, urls[:count], plain)
    one = Scenario(replica, 1, Arrivals(1), retries=NEVER, clients=1, timeout_s=TIMEOUT_S)
    add("overload", options.overload, urls[:1], one)
    queue = replace(one, replica=replace(replica, queue=MAX_QUEUE))
    for share in options.bounded_shares:
        add(f"{BOUNDED}, {MAX_QUEUE}", share, [bounded], queue)
    count = max(options.servers)
    for name in ("round-robin", "round-robin+hedging"):
        policy = policy_of(name)
        scenario = Scenario(
            replica, count, Arrivals(1), policy, clients=1,
            retries=RetryPolicy() if policy.hedging else NEVER,
            # The simulator's slow server is the first of the fleet.
            troubles=Troubles(slow_share=1 / count, slow_factor=SLOWER),
        )  # fmt: skip
        what = f"one {SLOWER:g} times slower{', hedging' if policy.hedging else ''}"
        add(what, options.slow_share,
            [slow_url, *urls[: count - 1]], scenario)  # fmt: skip
    return loads


def _simulated(place: OpenPlace, scenario: Scenario, what: str, share: float) -> Compared:
    """The same arrivals, simulated."""
    outcome = simulate(
        replace(
            scenario,
            times=tuple(poisson_times(place.rate, place.seconds, place.seed).tolist()),
            seconds=place.seconds,
            warm_up_s=0.0,
        )
    )
    return Compared(
        servers=scenario.replicas,
        what=what,
        share=short(share),
        real=place,
        p50_ms=short(outcome.p50_ms),
        p95_ms=short(outcome.p95_ms),
        p99_ms=short(outcome.p99_ms),
        per_second=short(outcome.per_second),
        failed=short(outcome.failed),
    )


def _target(url: str) -> Target:
    def hold_load(load: AnyLoad) -> Any:
        async def run() -> Any:
            async with AsyncClient(url, app=APP, retries=NEVER, max_in_flight=10_000) as client:
                return await load(_caller(client))

        return asyncio.run(run())

    return Target(APP, url, hold_load, {"app": contract.entry_point(APP, "classify", ("text",))})


def _caller(client: AsyncClient) -> Caller:
    async def ask(_number: int) -> str:
        return (await client.classify(text=TEXT, timeout_s=TIMEOUT_S)).label

    return ask
