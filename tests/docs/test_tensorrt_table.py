"""The figures of docs/tensorrt.md are those that `make tensorrt-table` wrote."""

from __future__ import annotations

import json

from pydantic import TypeAdapter

from tests.docs.pages import ROOT
from tritium_benchmarks.tensorrt_table import render
from tritium_builders.tensorrt.check import CheckReport

RESULTS = ROOT / "benchmarks" / "results"


def test_the_page_shows_what_was_measured() -> None:
    written = (RESULTS / "tensorrt.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "tensorrt.md").read_text(encoding="utf-8")
    assert written.strip() in page


def test_the_table_follows_from_the_figures() -> None:
    documents = json.loads((RESULTS / "tensorrt.json").read_text(encoding="utf-8"))
    reports = TypeAdapter(list[CheckReport]).validate_python(documents)
    assert [report.precision for report in reports] == ["fp32", "fp16", "bf16", "int8"]
    assert render(reports) == (RESULTS / "tensorrt.md").read_text(encoding="utf-8")
    for report in reports[1:]:
        assert report.accuracy is not None
        assert report.accuracy.points >= -0.5
