"""How much faster, and how sure: figures over repeats."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.benchmarks.records import measurement, record

from tritium_benchmarks.contenders import LIMIT, TRITIUM
from tritium_benchmarks.ratios import (
    against,
    best_against,
    closed_loads,
    complete_repeats,
    headline,
    noise,
    of_limit,
    paired,
    per_second,
)
from tritium_benchmarks.report.tables import comparison

SPEEDS = st.lists(st.floats(0.1, 1e5), min_size=2, max_size=8)


@given(SPEEDS, st.floats(0.1, 10))
def test_what_slows_the_machine_for_both_cancels_out(speeds: list[float], factor: float) -> None:
    ratio = paired([speed * factor for speed in speeds], speeds)
    assert ratio.value == pytest.approx(factor)
    assert ratio.low == pytest.approx(factor)
    assert ratio.high == pytest.approx(factor)
    assert ratio.agrees


@given(SPEEDS, SPEEDS)
def test_a_ratio_lies_within_its_interval_and_turns_round(
    first: list[float], second: list[float]
) -> None:
    count = min(len(first), len(second))
    there, back = paired(first[:count], second[:count]), paired(second[:count], first[:count])
    assert there.low <= there.value * (1 + 1e-9)
    assert there.value <= there.high * (1 + 1e-9)
    assert there.value == pytest.approx(1 / back.value)
    assert there.low == pytest.approx(1 / back.high)
    assert there.agrees == back.agrees


def test_the_interval_is_student_s() -> None:
    """Against values worked out by hand: log ratios 0, 0.1 and 0.2; t(0.975, 2) = 4.3027."""
    ratio = paired([1.0, 1.1051709, 1.2214028], [1, 1, 1])
    assert ratio.value == pytest.approx(1.1051709)
    assert ratio.high == pytest.approx(1.1051709 * 1.28199, rel=1e-4)
    assert str(ratio) == "1.11 (0.86 to 1.42)"


def test_one_repeat_has_no_interval_and_agrees_with_nothing() -> None:
    ratio = paired([2.0], [1.0])
    assert str(ratio) == "2.00"
    assert not ratio.agrees
    with pytest.raises(ValueError, match="nothing to compare"):
        paired([], [])


def test_each_contender_s_best_load_counts() -> None:
    run = record({TRITIUM: [80, 80], "fastapi-pytorch": [20, 20], LIMIT: [100, 100]})
    slow = [measurement("fastapi-pytorch", "16 in flight", repeat, 10) for repeat in (0, 1)]
    kept = [
        line
        for line in run.measurements
        if (line.contender, line.load) != ("fastapi-pytorch", "16 in flight")
    ]
    run = run.model_copy(update={"measurements": (*kept, *slow)})
    under_load = against(run, "fastapi-pytorch", "16 in flight")
    best, limit = best_against(run, "fastapi-pytorch"), of_limit(run, None)
    assert under_load is not None
    assert best is not None
    assert limit is not None
    assert under_load.value == pytest.approx(8)
    assert best.value == pytest.approx(4)
    assert limit.value == pytest.approx(0.8)
    assert set(headline(run)) == {"fastapi-pytorch", LIMIT}


def test_an_open_loop_is_compared_by_its_peak() -> None:
    """At shares of its own peak, who is twice as fast is sent, and answers, twice as much."""
    speeds = {TRITIUM: 80.0, "fastapi-pytorch": 20.0}
    lines = [
        measurement(name, load, repeat, value * share, in_flight=32 if share == 1 else None,
                    rate=None if share == 1 else value * share)
        for repeat in (0, 1)
        for name, value in speeds.items()
        for load, share in (("peak", 1.0), ("120% of the peak", 1.2))
    ]  # fmt: skip
    run = record(measurements=tuple(lines))
    assert closed_loads(run) == ["peak"]
    found = best_against(run, "fastapi-pytorch")
    assert found is not None
    assert found.value == pytest.approx(4)
    assert comparison(run).headings == ("", "peak", "best of each")


def test_halves_that_disagree_by_more_than_a_tenth_are_too_noisy() -> None:
    assert noise(record({TRITIUM: [80, 80, 86, 86], "fastapi-pytorch": [20] * 4})) == []
    (line,) = noise(record({TRITIUM: [80, 80, 90, 90], "fastapi-pytorch": [20] * 4}))
    assert line == ("FastAPI + PyTorch: 4.00 in the first half of the repeats, 4.50 in the second")
    (line,) = noise(record({TRITIUM: [80], "fastapi-pytorch": [20]}))
    assert "fewer than two" in line


def test_an_interrupted_repeat_does_not_count() -> None:
    run = record({TRITIUM: [80, 80, 10], "fastapi-pytorch": [20, 20]}, ended="interrupted")
    assert complete_repeats(run) == 2
    assert per_second(run, TRITIUM, "1 in flight") == [80, 80]
    ratio = against(run, "fastapi-pytorch", "1 in flight")
    assert ratio is not None
    assert ratio.value == pytest.approx(4)
