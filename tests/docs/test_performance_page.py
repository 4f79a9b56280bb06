"""docs/performance.md shows what `make curves` and `make serving-table` measured last."""

from __future__ import annotations

import json

import pytest

from tests.docs.pages import ROOT
from tritium_benchmarks.curves.axes import AXES
from tritium_benchmarks.curves.records import read_curves
from tritium_benchmarks.curves.show import measured, picture, places
from tritium_benchmarks.report.pages import fill_places
from tritium_benchmarks.serving_table import Figure, table

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"


def test_the_page_shows_the_committed_curves() -> None:
    text = PAGE.read_text("utf-8")
    curves = read_curves(RESULTS / "curves")
    assert measured(curves) == list(AXES)
    assert text.count("<!-- curves: ") == len(AXES) + 1
    assert fill_places(text, "curves", places(curves)) == text


@pytest.mark.parametrize("axis", AXES)
def test_the_pictures_are_of_the_committed_curves(axis: str) -> None:
    drawn = (ROOT / "docs" / "images" / f"curve-{axis}.svg").read_text("utf-8")
    assert drawn == picture(read_curves(RESULTS / "curves"), axis)


def test_the_page_shows_the_committed_figures_of_serving() -> None:
    document = json.loads((RESULTS / "serving.json").read_text("utf-8"))
    shown = table([Figure(**figure) for figure in document["figures"]])
    assert (RESULTS / "serving.md").read_text("utf-8") == shown
    text = PAGE.read_text("utf-8")
    assert fill_places(text, "serving", {"table": shown}) == text
