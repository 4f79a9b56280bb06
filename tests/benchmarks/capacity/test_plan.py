"""Plans: what they hold, what they refuse, and how they are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.benchmarks.capacity.servers import BASE_MS, EACH_MS, record
from tests.benchmarks.records import MANIFEST
from tests.support.command_line import tritium_inside

from tritium_benchmarks.capacity.balancing import policy_of
from tritium_benchmarks.capacity.fit import fit, read_server
from tritium_benchmarks.capacity.plan import MARGIN, MOST_FAILED, Plan, Wanted, make_plan
from tritium_benchmarks.capacity.record import newest_replica, write_replica
from tritium_benchmarks.capacity.show import plan_json, plan_lines, plan_table
from tritium_benchmarks.capacity.simulation import Outcome
from tritium_benchmarks.capacity.validated import Error
from tritium_benchmarks.curves.records import Curves, Place, write_curves
from tritium_benchmarks.errors import PlanError
from tritium_benchmarks.records import QUANTILES, Latency

GOLDEN = Path(__file__).parents[2] / "golden" / "capacity_plan.txt"
SERVER = fit(record())


def test_a_fit_finds_what_batches_cost() -> None:
    assert pytest.approx(BASE_MS / 1000) == SERVER.base_s
    assert pytest.approx(EACH_MS / 1000) == SERVER.each_s
    assert pytest.approx(0.5) == SERVER.alone
    assert pytest.approx(0.002, rel=0.01) == SERVER.outside_s
    assert np.mean(SERVER.scatter) == pytest.approx(1)
    assert SERVER.peak_per_second == pytest.approx(16 / 0.17)


def test_curves_of_requests_in_flight_do_as_well(tmp_path: Path) -> None:
    def place(in_flight: int, per_second: float) -> Place:
        alone = Latency(mean=15, p50=15, p95=15, p99=15, quantiles=(15.0,) * len(QUANTILES))
        return Place(
            axis="concurrency", x=in_flight, in_flight=in_flight, repeat=0, per_second=per_second,
            latency=alone, failures={}, generator_cpu=0.1,
        )  # fmt: skip

    places = [place(1, 60.0)]
    for batch in (1, 2, 4, 8):  # two instances, as MANIFEST has two cores
        seconds = (BASE_MS + batch * EACH_MS) / 1000
        places.append(place(2 * batch, 2 * batch / seconds))
    curves = Curves(app="demo", manifest=MANIFEST, seconds=1, places=tuple(places))
    write_curves(curves, tmp_path)
    found, told = read_server(tmp_path)
    assert found.base_s == pytest.approx(BASE_MS / 1000, rel=0.01)
    assert found.each_s == pytest.approx(EACH_MS / 1000, rel=0.01)
    assert found.alone == pytest.approx(0.5, rel=0.01)
    assert found.memory_mib is None
    assert told == "demo on A <fast> one, 2 cores, measured 2026-11-25"
    write_curves(curves.model_copy(update={"places": tuple(places[:2])}), tmp_path)
    with pytest.raises(PlanError, match="--axis concurrency"):
        read_server(tmp_path)


def test_more_load_never_needs_fewer_servers() -> None:
    counts = [
        make_plan(Wanted(rps, 150, calls=4000), SERVER).replicas
        for rps in (20, 100, 400, 1600, 3200)
    ]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    # A large fleet needs as much for each request as a small one, or a little less.
    assert counts[-1] == pytest.approx(2 * counts[-2], rel=0.1)


def test_a_plan_holds_its_bound_with_a_zone_lost_and_wastes_nothing() -> None:
    wanted = Wanted(rps=600, p99_ms=150, calls=8000)
    plan = make_plan(wanted, SERVER)
    assert plan.grown.p99_ms <= wanted.p99_ms
    assert plan.grown.failed <= MOST_FAILED
    assert plan.whole.utilisation < plan.lost.utilisation < plan.grown.utilisation
    assert plan.lost.utilisation == pytest.approx(1.5 * plan.whole.utilisation, rel=0.25)
    assert plan.replicas == 3 * plan.per_zone
    assert (plan.cores, plan.memory_gib) == (2 * plan.replicas, 0.5 * plan.replicas)
    assert plan.whole.queued < plan.queued_target < plan.grown.queued
    scarce = make_plan(replace(wanted, p99_ms=plan.grown.p99_ms - 15), SERVER)
    assert scarce.replicas > plan.replicas


@pytest.mark.parametrize(
    "harder", [{"p99_ms": 100}, {"headroom": 0.5}, {"burstiness": 2.5}, {"zones": 2}]
)
def test_harder_wishes_need_more(harder: dict[str, float]) -> None:
    easy = Wanted(rps=500, p99_ms=180, calls=4000)
    more = make_plan(replace(easy, **harder), SERVER)  # type: ignore[arg-type]
    assert more.replicas > make_plan(easy, SERVER).replicas


def test_a_better_policy_needs_less() -> None:
    blind = Wanted(rps=1000, p99_ms=130, calls=4000, policy=policy_of("random"))
    envoy = replace(blind, policy=policy_of("envoy"))
    assert make_plan(envoy, SERVER).replicas < make_plan(blind, SERVER).replicas


def test_what_no_number_of_servers_does_is_refused() -> None:
    with pytest.raises(PlanError, match=r"under 12 ms: a request that meets nobody takes 18\.\d"):
        make_plan(Wanted(rps=100, p99_ms=12), SERVER)
    slow = replace(SERVER, outside=(0.0,) * 98 + (0.2,) * 2)
    with pytest.raises(PlanError, match="no number of servers"):
        make_plan(Wanted(rps=100, p99_ms=100), slow)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"rps": 0}, "--rps must be more than 0"),
        ({"rps": float("inf")}, "--rps must be more than 0"),
        ({"p99_ms": -1}, "--p99-ms must be more than 0"),
        ({"zones": 0}, "--zones must be at least 1"),
        ({"headroom": -0.1}, "--headroom must not be negative"),
        ({"margin": 1}, "--margin must be at least 0 and below 1"),
        ({"burstiness": 11}, "burstiness must be from 1 to 10"),
    ],
)
def test_wishes_that_can_never_be_right_are_refused(wrong: dict[str, float], told: str) -> None:
    with pytest.raises(PlanError, match=told):
        Wanted(**({"rps": 10.0, "p99_ms": 100.0} | wrong))  # type: ignore[arg-type]


def outcome(factor: float) -> Outcome:
    return Outcome(
        calls=1000, latencies_ms=factor * np.linspace(20, 70, 1000), refused=0, timed_out=0,
        sent=1000, retries=0, hedges=0, seconds=10.0, utilisation=0.3 * factor,
        queued=0.02 * factor**2, queue_ms=0.8 * factor, batch=1.1, took_s=1.0,
    )  # fmt: skip


ERROR = Error(16, 3, (-0.04, 0.03, 0.02), (-0.05, 0.12, 0.05), (-0.02, 0.2, 0.06))


def test_a_plan_is_told_as_it_always_was() -> None:
    """The golden file is what people and their scripts know; change both on purpose."""
    plan = Plan(
        Wanted(2000, 80), replace(SERVER, gpus=1), 30, outcome(0.8), outcome(1.0), outcome(1.1)
    )
    told = [
        plan_table(plan).title,
        plan_table(plan).to_markdown(),
        *plan_lines(plan, "demo on a machine", ERROR),
        json.dumps(plan_json(plan, "demo on a machine", ERROR), indent=1),
    ]
    assert "\n".join(told) + "\n" == GOLDEN.read_text("utf-8")


def test_a_margin_keeps_the_simulation_below_the_bound() -> None:
    wanted = Wanted(400, 140, calls=4000)
    plain, careful = (make_plan(replace(wanted, margin=margin), SERVER) for margin in (0.0, MARGIN))
    assert wanted.p99_ms >= plain.grown.p99_ms > careful.wanted.aim_ms >= careful.grown.p99_ms
    assert careful.replicas > plain.replicas
    assert f"aim: p99 of {careful.wanted.aim_ms:.0f} ms simulated" in "\n".join(
        plan_lines(careful, "demo", None)
    )
    with pytest.raises(PlanError, match=r"under 100 ms \(10 simulated, see --margin\)"):
        make_plan(replace(wanted, p99_ms=100, margin=0.9), SERVER)


def test_without_zones_nothing_is_said_of_them() -> None:
    plan = Plan(Wanted(100, 80, zones=1), SERVER, 4, outcome(1), outcome(1), outcome(1.1))
    assert len(plan_table(plan).rows) == 2
    assert "zone" not in "".join(plan_lines(plan, "demo", None))


def test_the_newest_measurement_counts(tmp_path: Path) -> None:
    for day in (11, 13, 12):
        write_replica(record(started=f"2026-11-{day}T00:00:00+00:00"), tmp_path / str(day))
    write_replica(record(app="other", started="2026-11-20T00:00:00+00:00"), tmp_path / "other")
    assert newest_replica([tmp_path / "none", tmp_path], "demo").parent.name == "13"
    assert newest_replica([tmp_path]).parent.name == "other"
    with pytest.raises(PlanError, match="no server of nobody was measured here; run `tritium ben"):
        newest_replica([tmp_path], "nobody")


def test_the_command_plans_from_a_file(tmp_path: Path) -> None:
    path = write_replica(record(gpus=1), tmp_path)
    asked = ("bench", "plan", "--curve", str(path), "--rps", "120")
    done = tritium_inside(*asked, "--p99-ms", "150", "--policy", "envoy", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["replicas"] == 3 * told["replicas_per_zone"] == told["gpus"]
    assert told["margin"] == MARGIN
    assert told["one_zone_lost_and_headroom"]["p99_ms"] <= 150 * (1 - MARGIN)
    assert told["simulator_error"]["loads"] > 10, "the comparison comes with the package"
    refused = tritium_inside(*asked, "--p99-ms", "5")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "no number of servers keeps p99 under 5 ms" in refused.stderr
