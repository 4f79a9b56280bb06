"""The simulator beside real servers, in small: more than a machine's noise is an error."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e.conftest import TARGET, Fold
from tests.support.command_line import tritium
from tritium_benchmarks.capacity.fit import fit
from tritium_benchmarks.capacity.validate import SLEEPS, ValidateOptions, validate

pytestmark = [pytest.mark.e2e, pytest.mark.full]


def test_one_to_three_real_servers_are_as_the_simulator_says() -> None:
    told: list[str] = []
    found = validate(
        ValidateOptions(shares=(0.3, 0.7), seconds=4.0), lambda text, *_: told.append(text)
    )
    server = fit(found.sleeper)
    assert server.max_batch == SLEEPS.max_batch
    # Never faster than they sleep; slower by what the machine adds.
    full = SLEEPS.base_s + SLEEPS.max_batch * SLEEPS.each_s
    fitted = server.base_s + server.max_batch * server.each_s
    assert full <= fitted * 1.02 < 1.5 * full
    assert {(place.servers, place.what) for place in found.places} >= {
        (1, "round robin"), (2, "round robin"), (3, "round robin"), (1, "overload"),
        (3, "one 3 times slower, hedging"),
    }  # fmt: skip
    assert len(told) == 1 + len(found.places)
    steady = [place for place in found.places if place.what == "round robin"]
    for field, most in (("p50", 0.2), ("p95", 0.25), ("p99", 0.35)):
        errors = [place.error(field) for place in steady]
        assert statistics.median(abs(error or 9.0) for error in errors) < most, field
    for place in found.places:
        assert place.per_second == pytest.approx(place.real.per_second, rel=0.02), place.what
    hedged, plain = found.places[-1], found.places[-2]
    assert hedged.p99_ms < plain.p99_ms
    assert hedged.real.latency is not None
    assert plain.real.latency is not None
    assert hedged.real.latency.p99 < plain.real.latency.p99


@pytest.mark.skipif(TARGET == "tensorrt", reason="without a GPU it is the component encoders")
def test_a_real_server_is_measured_and_planned_with(
    folds: Sequence[Fold], repository: Path, tmp_path: Path
) -> None:
    measured = tritium(
        "bench", "replica", "openmoji", "--repository", str(repository), "--seconds", "0.5",
        "--out", str(tmp_path), "--json",
    )  # fmt: skip
    assert measured.returncode == 0, measured.stderr
    record = json.loads(measured.stdout)
    assert record["component"] == "encoders"
    assert record["queue"] == 256
    assert record["max_batch"] == 8
    assert 200 < record["memory_mib"] < 4000
    assert record["alone_batch"]["p50"] < record["alone"]["p50"]
    assert [len(place["failures"]) for place in record["places"]] == [0, 0, 0, 0]
    planned = tritium(
        "bench", "plan", "--curve", str(tmp_path), "--rps", "300", "--p99-ms", "4000", "--json"
    )
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert plan["replicas"] >= 3
    assert plan["memory_gib"] == pytest.approx(
        plan["replicas"] * record["memory_mib"] / 1024, abs=0.1
    )
