"""Two runs side by side."""

from __future__ import annotations

import pytest
from tests.benchmarks.records import MANIFEST, measurement, record

from tritium_benchmarks.compare import compare, differences, unpaired
from tritium_benchmarks.contenders import TRITIUM
from tritium_benchmarks.errors import BenchmarkError
from tritium_benchmarks.records import RunRecord
from tritium_benchmarks.workload import load_workload

OLD = record({TRITIUM: [80, 82, 81, 79]})


@pytest.mark.parametrize(
    ("speeds", "verdict"),
    [
        ([100, 103, 101, 99], "faster"),
        ([60, 62, 61, 59], "slower"),
        ([80, 83, 78, 82], "within noise"),
        ([200], "one repeat: no telling"),
    ],
)
def test_a_change_counts_when_it_is_more_than_the_noise(speeds: list[float], verdict: str) -> None:
    changes = compare(OLD, record({TRITIUM: speeds}))
    assert [(change.load, change.verdict) for change in changes] == [
        ("1 in flight", verdict),
        ("16 in flight", verdict),
    ]
    (first, _) = changes
    assert first.throughput.value == pytest.approx(first.new / first.old, rel=0.01)
    assert first.p99 == pytest.approx(1 / first.throughput.value, rel=0.05)


def test_equal_figures_are_no_change() -> None:
    ratio = unpaired([50, 50, 50], [50, 50, 50])
    assert (ratio.low, ratio.value, ratio.high) == (1, 1, 1)
    (first, _) = compare(record({TRITIUM: [50, 50]}), record({TRITIUM: [50, 50]}))
    assert first.verdict == "within noise"
    (first, _) = compare(record({TRITIUM: [50, 50]}), record({TRITIUM: [60, 60]}))
    assert first.verdict == "faster"


def test_what_was_sent_at_a_rate_is_not_faster() -> None:
    def sent(rate: float) -> RunRecord:
        lines = [
            measurement(TRITIUM, "70% of the peak", repeat, rate, in_flight=None, rate=rate)
            for repeat in (0, 1)
        ]
        return record(measurements=tuple(lines))

    (change,) = compare(sent(40), sent(60))
    assert change.verdict == "sent at a rate"


def test_runs_that_cannot_be_compared_say_why() -> None:
    with pytest.raises(BenchmarkError, match="app demo, the new one of other"):
        compare(OLD, OLD.model_copy(update={"app": "other"}))
    with pytest.raises(BenchmarkError, match=r"workload \(saturate\) is not the new one's"):
        compare(OLD, OLD.model_copy(update={"workload": load_workload("single")}))
    with pytest.raises(BenchmarkError, match="no complete measurement in common"):
        compare(OLD, OLD.model_copy(update={"measurements": ()}))


def test_another_machine_is_told() -> None:
    assert differences(OLD, OLD) == []
    other = OLD.model_copy(update={"manifest": MANIFEST | {"cores": 64}})
    assert differences(OLD, other) == ["cores: 2 then, 64 now"]
