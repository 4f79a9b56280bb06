"""docs/fine-tuning.md shows what `make fine-tuning-table` wrote, and names every setting."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT
from tritium_benchmarks.fine_tuning_table import NAME, SEEDS, VARIANTS, FineTuning, render
from tritium_benchmarks.report.pages import fill_places
from tritium_builders.training.recipe import (
    AugmentationTable,
    EncoderTable,
    LoaderTable,
    LoraTable,
    OptimiserTable,
)

RESULTS = ROOT / "benchmarks" / "results"
PAGE = (ROOT / "docs" / "fine-tuning.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def measured() -> FineTuning:
    return FineTuning.model_validate_json((RESULTS / f"{NAME}.json").read_bytes())


def test_the_page_shows_the_committed_figures(measured: FineTuning) -> None:
    table = render(measured)
    assert (RESULTS / f"{NAME}.md").read_text(encoding="utf-8") == table
    assert PAGE.count("<!-- tuning: table -->") == 1
    assert fill_places(PAGE, "tuning", {"table": table}) == PAGE


def test_the_table_is_complete_and_validation_chose(measured: FineTuning) -> None:
    assert [row.variant for row in measured.rows] == [variant.name for variant in VARIANTS]
    for row, variant in zip(measured.rows, VARIANTS, strict=True):
        assert list(row.accuracy.by_seed) == list(SEEDS)
        assert list(row.tried) == [str(rate) for rate in variant.rates]
        assert row.tried[str(row.rate)] == max(row.tried.values())


def test_the_page_names_every_setting() -> None:
    tables = (EncoderTable, LoraTable, OptimiserTable, AugmentationTable, LoaderTable)
    for table in tables:
        for name in table.model_fields:
            assert re.search(rf"`{name}`|^{name} = ", PAGE, re.MULTILINE) or name == "lora", name
