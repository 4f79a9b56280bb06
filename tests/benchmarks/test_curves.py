"""Along the axes: what is varied, what is kept, and what is shown of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.benchmarks.records import MANIFEST

from tritium_benchmarks.curves.axes import ALONE, AXES, BUSY, workload
from tritium_benchmarks.curves.records import Curves, Place, read_curves, write_curves
from tritium_benchmarks.curves.run import CurveOptions, measure
from tritium_benchmarks.curves.show import picture, places, table
from tritium_benchmarks.errors import BenchmarkError, RecordError
from tritium_benchmarks.inputs import make_requests
from tritium_benchmarks.records import Latency


def place(axis: str, x: int, in_flight: int, repeat: int, per_second: float) -> Place:
    latency = Latency(mean=20, p50=2000 / per_second, p95=40, p99=50)
    return Place(
        axis=axis, x=x, in_flight=in_flight, repeat=repeat, per_second=per_second,
        latency=latency, failures={"ServerUnavailable": 2} if x == 4 else {}, generator_cpu=0.1,
    )  # fmt: skip


def curves() -> Curves:
    found = [
        place("cores", x, in_flight, repeat, x * (10 + repeat) * (2 if in_flight == BUSY else 1))
        for repeat in range(3)
        for x in (1, 2, 4)
        for in_flight in (ALONE, BUSY)
    ]
    found += [place("concurrency", x, x, 0, 10.0 * x) for x in (1, 2)]
    return Curves(app="demo", manifest=MANIFEST, seconds=1, places=tuple(found))


@pytest.mark.parametrize("cores", [1, 2, 6])
def test_no_place_asks_for_more_cores_than_there_are(cores: int) -> None:
    for axis in AXES.values():
        points = axis.points(cores)
        assert len({(point.x, point.in_flight) for point in points}) == len(points)
        assert all(1 <= (point.cores or cores) <= cores for point in points)
    counts = [point.x for point in AXES["cores"].points(cores)]
    assert (min(counts), max(counts)) == (1, cores)


def test_requests_of_a_place_are_all_alike() -> None:
    made = make_requests(workload(words=7, width=64), 32)
    assert {len((request.text or "").split()) for request in made} == {7}
    assert all(request.image for request in made)
    assert all(one.image is None for one in make_requests(workload(text_only=True), 32))


def test_a_table_has_medians_the_spread_and_what_failed() -> None:
    headings = table(curves(), "cores").headings
    assert headings[1:] == (
        "answers/s, 16 in flight", "p50, ms", "p99, ms", "p50, alone, ms", "failed",
    )  # fmt: skip
    assert table(curves(), "cores").rows == (
        ("1", "22.0 (20.0 to 24.0)", "90.9", "50.0", "181.8", "0"),
        ("2", "44.0 (40.0 to 48.0)", "45.5", "50.0", "90.9", "0"),
        ("4", "88.0 (80.0 to 96.0)", "22.7", "50.0", "45.5", "6"),
    )
    assert table(curves(), "concurrency").rows[1] == ("2", "20.0 (20.0 to 20.0)", "100.0", "50.0",
                                                      "0")  # fmt: skip


def test_what_was_measured_is_shown_and_nothing_else() -> None:
    assert places(curves()).keys() == {"concurrency", "cores", "machine"}
    svg = picture(curves(), "cores")
    assert svg.startswith("<?xml")
    assert picture(curves(), "cores") == svg, "the same figures, the same file"


def test_curves_are_kept(tmp_path: Path) -> None:
    write_curves(curves(), tmp_path / "new")
    assert read_curves(tmp_path / "new") == curves()
    with pytest.raises(RecordError, match="cannot be read"):
        read_curves(tmp_path)
    (tmp_path / "curves.json").write_text("{}")
    with pytest.raises(RecordError, match="measure again"):
        read_curves(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot be written"):
        write_curves(curves(), tmp_path / "file")


def test_what_cannot_be_measured_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="does not exist; run `tritium build` first"):
        measure(CurveOptions("demo", repository=tmp_path / "none"))
