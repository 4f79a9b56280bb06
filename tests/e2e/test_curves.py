"""`tritium bench curves` and `make serving-table`, in small, against the real server."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e.conftest import FULL, TARGET, Fold
from tritium_benchmarks import serving_table
from tritium_benchmarks.curves.records import Curves
from tritium_benchmarks.curves.run import CurveOptions, measure
from tritium_benchmarks.errors import BenchmarkError

pytestmark = pytest.mark.e2e


def test_cores_and_batches_are_varied(folds: Sequence[Fold], repository: Path) -> None:
    cores = os.sched_getaffinity(0)
    axes = ("batch", "cores") if FULL and TARGET != "tensorrt" else ("cores",)
    told: list[tuple[int, int]] = []
    kept: list[Curves] = []
    curves = measure(
        CurveOptions("openmoji", axes, repository, seconds=0.5, repeats=1),
        lambda _text, done, total: told.append((done, total)),
        kept.append,
    )
    assert [len(one.places) for one in kept] == list(range(len(told) + 1))
    assert kept[-1] == curves
    assert told == [(number, len(told)) for number in range(len(told))]
    assert list(curves.at("cores")) == sorted({1, *curves.at("cores"), len(cores)})
    for place in curves.places:
        assert place.per_second > 0
        assert not place.failures
    assert os.sched_getaffinity(0) == cores
    with pytest.raises(BenchmarkError, match="no axis is called 'heat'; there are: concurrency"):
        measure(CurveOptions("openmoji", ("heat",), repository))


@pytest.mark.full
def test_every_figure_of_serving_is_measured(
    folds: Sequence[Fold], repository: Path, tmp_path: Path
) -> None:
    serving_table.main([
        "openmoji", str(tmp_path), "--repository", str(repository),
        "--bundle", str(folds[0].bundle.folder), "--seconds", "0.6", "--repeats", "1",
    ])  # fmt: skip
    lines = (tmp_path / "serving.md").read_text().splitlines()[2:]
    assert len(lines) == 11
