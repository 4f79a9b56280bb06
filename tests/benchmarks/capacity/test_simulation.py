"""The simulator keeps its books: nothing is lost, doubled, or left to chance."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium_benchmarks.capacity.arrivals import Arrivals
from tritium_benchmarks.capacity.balancing import HEDGING, POLICIES, policy_of, subsets
from tritium_benchmarks.capacity.fleet import Troubles
from tritium_benchmarks.capacity.replica import Replica, exponential
from tritium_benchmarks.capacity.simulation import Scenario, simulate
from tritium_benchmarks.errors import PlanError
from tritium_client import RetryPolicy

SERVER = Replica(base_s=0.01, each_s=0.02, instances=2, max_batch=4, alone=0.6)
EVERY = [name + more for name in POLICIES for more in ("", HEDGING)]


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    replica = Replica(
        base_s=draw(st.floats(0, 0.05)),
        each_s=draw(st.floats(0.001, 0.05)),
        instances=draw(st.integers(1, 3)),
        max_batch=draw(st.integers(1, 8)),
        queue=draw(st.integers(1, 12)),
        alone=draw(st.floats(0.2, 1)),
        outside=draw(st.sampled_from([(0.0,), (0.001, 0.02)])),
        scatter=draw(st.sampled_from([(1.0,), exponential()])),
    )
    replicas = draw(st.integers(1, 7))
    zones = draw(st.integers(1, min(replicas, 3)))
    troubles = Troubles(
        slow_share=draw(st.sampled_from([0.0, 0.4])),
        lost_zone_at_s=draw(st.sampled_from([None, 0.2])) if zones > 1 else None,
        restart_from_s=draw(st.sampled_from([None, 0.1])),
        restart_away_s=0.1,
    )
    rate = draw(st.floats(0.2, 3)) * replicas * replica.peak_per_second
    bursts = draw(st.sampled_from([1.0, 4.0]))
    arrivals = Arrivals(rate, bursts, kinds=((0.9, 1.0), (0.1, 5.0)))
    seconds, seed = min(1.0, 400 / rate), draw(st.integers(0, 1000))
    return Scenario(
        replica,
        replicas,
        arrivals,
        policy_of(draw(st.sampled_from(EVERY))),
        zones=zones,
        clients=draw(st.integers(1, 12)),
        subset=draw(st.integers(1, 8)),
        troubles=troubles,
        timeout_s=draw(st.sampled_from([0.05, 0.5, 10.0])),
        seconds=seconds,
        warm_up_s=0.0,
        seed=seed,
        times=tuple(arrivals.times(seconds, np.random.default_rng(seed)).tolist()),
    )


@settings(max_examples=60, deadline=None)
@given(scenarios())
def test_every_call_ends_once(scenario: Scenario) -> None:
    outcome = simulate(scenario)
    assert outcome.calls == len(scenario.times or ())
    assert len(outcome.latencies_ms) + outcome.refused + outcome.timed_out == outcome.calls
    assert np.all(outcome.latencies_ms <= 1000 * scenario.timeout_s + 1e-6)
    least = 1000 * min(scenario.replica.scatter) * scenario.replica.batch_s(1, 1)
    assert np.all(outcome.latencies_ms >= least - 1e-6)
    # The budget bounds what retries and hedges add.
    callers = 2 * scenario.zones if scenario.policy.by_proxy else scenario.clients or 0
    budget = scenario.retries.budget * outcome.calls + scenario.retries.burst * callers
    assert outcome.hedges + outcome.retries <= budget + 1
    assert outcome.sent == outcome.calls + outcome.hedges + outcome.retries


@pytest.mark.parametrize("name", EVERY)
def test_the_same_seed_gives_the_same_outcome(name: str) -> None:
    scenario = Scenario(
        SERVER, 6, Arrivals(200, 2.0), policy_of(name), zones=3, seconds=2.0,
        troubles=Troubles(slow_share=0.2, lost_zone_at_s=1.0),
    )  # fmt: skip
    one, same, other = (simulate(replace(scenario, seed=seed)) for seed in (1, 1, 2))
    assert one.latencies_ms.tolist() == same.latencies_ms.tolist()
    assert (one.hedges, one.retries, one.refused) == (same.hedges, same.retries, same.refused)
    assert one.latencies_ms.tolist() != other.latencies_ms.tolist()


def p99(name: str, troubles: Troubles | None = None, load: float = 0.5, zones: int = 3) -> float:
    scenario = Scenario(
        SERVER, 30, Arrivals(load * 30 * SERVER.peak_per_second), policy_of(name), zones=zones,
        troubles=troubles or Troubles(), seconds=4.0,
    )  # fmt: skip
    return simulate(scenario).p99_ms


def test_knowing_more_keeps_the_tail_shorter() -> None:
    assert p99("envoy") < p99("round-robin") < p99("random")
    assert p99("two-choices") < p99("random")


def test_a_slow_server_is_left_alone_by_who_counts_and_by_who_hedges() -> None:
    slow = Troubles(slow_share=0.1, slow_factor=8.0)
    blind = p99("round-robin", slow, load=0.3)
    assert p99("round-robin+hedging", slow, load=0.3) < 0.7 * blind
    assert p99("envoy", slow, load=0.3) < 0.7 * blind


def test_a_server_that_hedges_overtake_is_left_out() -> None:
    """Without that, its third of each round would be hedged for ever."""
    scenario = Scenario(
        SERVER, 30, Arrivals(0.3 * 30 * SERVER.peak_per_second), policy_of("round-robin+hedging"),
        zones=3, troubles=Troubles(slow_share=0.1, slow_factor=8.0), seconds=4.0,
    )  # fmt: skip
    outcome = simulate(scenario)
    assert 0.04 < outcome.hedges / outcome.calls < 0.11


@pytest.mark.parametrize("name", [one for one in EVERY if HEDGING not in one])
def test_what_fails_is_left_out_for_longer_and_longer(name: str) -> None:
    now = [0.0]
    balance = policy_of(name).make(4, lambda: now[0], random.Random(0))

    def chosen(count: int = 40) -> set[int]:
        found = set()
        for _ in range(count):
            index = balance.choose()
            found.add(index)
            balance.gave_up(index)
        return found

    assert chosen() == {0, 1, 2, 3}
    balance.failed(2)
    assert chosen() == {0, 1, 3}
    now[0] += 0.3
    assert 2 in chosen()
    balance.failed(2)  # again in a row: half a second
    now[0] += 0.3
    assert chosen() == {0, 1, 3}
    now[0] += 0.3
    assert 2 in chosen()
    balance.succeeded(2)
    for _ in range(2):
        balance.overtaken(1)
    assert chosen() == {0, 1, 2, 3}, "two slow answers say little"
    balance.overtaken(1)
    assert chosen() == {0, 2, 3}
    for index in range(4):
        balance.failed(index)
    assert chosen(1) <= {0, 1, 2, 3}, "no answer is worse than a late one"


@pytest.mark.parametrize("name", ["round-robin", "two-choices", "least-outstanding", "envoy"])
def test_a_lost_zone_fails_few_calls_and_the_others_carry_on(name: str) -> None:
    scenario = Scenario(
        SERVER, 30, Arrivals(0.3 * 30 * SERVER.peak_per_second), policy_of(name), zones=3,
        troubles=Troubles(lost_zone_at_s=3.0), seconds=6.0,
    )  # fmt: skip
    outcome = simulate(scenario)
    assert outcome.failed < 0.01
    never = simulate(replace(scenario, retries=RetryPolicy(attempts=1)))
    assert never.refused > outcome.refused


def test_a_rolling_restart_fails_no_call() -> None:
    scenario = Scenario(
        SERVER, 20, Arrivals(0.4 * 20 * SERVER.peak_per_second),
        troubles=Troubles(restart_from_s=1.0, restart_away_s=0.3), seconds=5.0,
    )  # fmt: skip
    outcome = simulate(scenario)
    assert outcome.failed == 0
    assert outcome.p99_ms > simulate(replace(scenario, troubles=Troubles())).p99_ms


def test_one_server_without_retries_refuses_what_its_queue_does_not_hold() -> None:
    burst = tuple(0.001 * number for number in range(100))
    scenario = Scenario(
        replace(SERVER, queue=10), 1, Arrivals(1), retries=RetryPolicy(attempts=1), clients=1,
        times=burst, seconds=0.2, warm_up_s=0.0,
    )  # fmt: skip
    outcome = simulate(scenario)
    assert outcome.calls == 100
    assert outcome.refused == 100 - len(outcome.latencies_ms) > 50


def test_subsets_are_even() -> None:
    known = subsets(servers=50, clients=35, size=20, seed=3)
    assert len(known) == 35
    assert all(len(set(one)) == 20 for one in known)
    counts = np.bincount([server for one in known for server in one])
    assert counts.tolist() == [14] * 50
    assert sorted(subsets(3, 1, 20, 0)[0]) == [0, 1, 2]


def test_a_policy_that_nobody_knows_is_told_with_those_that_there_are() -> None:
    with pytest.raises(PlanError, match=r"no policy is called 'best'; there are: random, round-ro"):
        policy_of("best")
    assert policy_of("envoy+hedging").hedging
