"""The simulator against queueing theory: where a formula is known, it is met.

Mean waits of independent runs are compared within four standard errors of their own mean.
Formulas: Kleinrock 1975, Queueing Systems, volume 1 (M/M/1, M/M/c, Pollaczek-Khinchine).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import numpy as np
import pytest

from tritium_benchmarks.capacity.arrivals import Arrivals
from tritium_benchmarks.capacity.replica import Replica, exponential
from tritium_benchmarks.capacity.simulation import Outcome, Scenario, simulate
from tritium_client import RetryPolicy

SERVICE_S = 0.01
RUNS = 8
CALLS = 10_000
ENDLESS = 10**9
NEVER = RetryPolicy(attempts=1)


def runs(replica: Replica, load: float) -> list[Outcome]:
    rate = load * replica.peak_per_second
    return [
        simulate(
            Scenario(
                replica, 1, Arrivals(rate), retries=NEVER, clients=1, timeout_s=ENDLESS,
                seconds=CALLS / rate, warm_up_s=100 * SERVICE_S, seed=seed,
            )
        )
        for seed in range(RUNS)
    ]  # fmt: skip


def assert_near(outcomes: list[Outcome], of: Callable[[Outcome], float], theory: float) -> None:
    values = [of(outcome) for outcome in outcomes]
    error = statistics.stdev(values) / math.sqrt(len(values))
    assert statistics.mean(values) == pytest.approx(theory, abs=4 * error)
    assert error < 0.06 * theory, "too few requests to say anything"


def mean_ms(outcome: Outcome) -> float:
    return float(outcome.latencies_ms.mean())


@pytest.mark.parametrize("load", [0.4, 0.7])
def test_one_memoryless_server(load: float) -> None:
    server = Replica(0.0, SERVICE_S, queue=ENDLESS, scatter=exponential())
    found = runs(server, load)
    assert_near(found, mean_ms, 1000 * SERVICE_S / (1 - load))
    assert_near(found, lambda one: one.p99_ms, 1000 * SERVICE_S / (1 - load) * math.log(100))
    assert_near(found, lambda one: one.utilisation, load)
    # Those in the queue, without the one that is served.
    assert_near(found, lambda one: one.queued, load**2 / (1 - load))


@pytest.mark.parametrize("servers", [2, 5])
def test_several_memoryless_instances_with_one_queue(servers: int) -> None:
    load = 0.75
    server = Replica(0.0, SERVICE_S, servers, queue=ENDLESS, scatter=exponential())
    offered = load * servers
    others = sum(offered**k / math.factorial(k) for k in range(servers))
    full = offered**servers / math.factorial(servers) / (1 - load)
    waits = full / (others + full)  # Erlang C
    wait_s = waits * SERVICE_S / (servers * (1 - load))
    found = runs(server, load)
    assert_near(found, mean_ms, 1000 * (wait_s + SERVICE_S))
    assert_near(found, lambda one: one.queue_ms, 1000 * wait_s)


def test_one_server_that_always_takes_as_long() -> None:
    load = 0.7
    wait_s = load * SERVICE_S / (2 * (1 - load))
    assert_near(
        runs(Replica(0.0, SERVICE_S, queue=ENDLESS), load), mean_ms, 1000 * (wait_s + SERVICE_S)
    )


def test_full_batches_reach_the_peak_and_not_more() -> None:
    server = Replica(base_s=0.04, each_s=0.008, max_batch=8, queue=256)
    over = simulate(
        Scenario(server, 1, Arrivals(3 * server.peak_per_second), retries=NEVER, clients=1)
    )
    # What was queued when the last request came is answered, too: a few seconds' worth.
    assert over.per_second == pytest.approx(server.peak_per_second, rel=0.2)
    assert over.utilisation == pytest.approx(1, abs=0.01)
    assert over.batch == pytest.approx(8, abs=0.01)
    assert over.refused > 0.5 * over.calls


def test_bursts_keep_the_mean_rate_and_make_waiting_longer() -> None:
    calm, bursty = Arrivals(50.0), Arrivals(50.0, burstiness=5.0)
    counts = [len(bursty.times(200, np.random.default_rng(seed))) for seed in range(30)]
    assert_count = statistics.stdev(counts) / math.sqrt(len(counts))
    assert statistics.mean(counts) == pytest.approx(10_000, abs=4 * assert_count)
    times = bursty.times(200, np.random.default_rng(0))
    assert np.all(np.diff(times) >= 0)
    busiest = max(np.histogram(times, bins=400)[0])
    assert busiest > 2 * max(np.histogram(calm.times(200, np.random.default_rng(0)), bins=400)[0])
