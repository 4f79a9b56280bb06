"""Pages on training show what their tables' commands wrote, and every setting there is."""

from __future__ import annotations

import re

from tests.docs.pages import ROOT
from tritium_benchmarks import imbalance_table, pretraining_table
from tritium_benchmarks.imbalance_table import VARIANTS, ImbalanceReport
from tritium_benchmarks.pretraining_table import PretrainingTable
from tritium_benchmarks.report.pages import fill_places
from tritium_builders.training.recipe import (
    ContrastiveTable,
    ImbalanceTable,
    MaskingTable,
    PretrainingOptimiserTable,
)

RESULTS = ROOT / "benchmarks" / "results"
IMBALANCE = (ROOT / "docs" / "class-imbalance.md").read_text(encoding="utf-8")
PRETRAINING = (ROOT / "docs" / "pretraining.md").read_text(encoding="utf-8")


def settings(page: str, table: str) -> set[str]:
    """The names under `[table]` in a page's first block that has it."""
    block = page.partition(f"\n[{table}]")[2].partition("```")[0].partition("\n[")[0]
    return set(re.findall(r"^(\w+) = ", block, re.MULTILINE))


def test_the_page_on_imbalance_shows_the_committed_figures() -> None:
    path = RESULTS / f"{imbalance_table.NAME}.json"
    report = ImbalanceReport.model_validate_json(path.read_bytes())
    tables = {
        "table": imbalance_table.render(report),
        "temperatures": imbalance_table.render_temperatures(report),
    }
    assert fill_places(IMBALANCE, "imbalance", tables) == IMBALANCE
    assert (RESULTS / f"{imbalance_table.NAME}.md").read_text("utf-8") == "\n".join(tables.values())
    assert [row.name for row in report.strategies] == list(VARIANTS)


def test_the_page_says_what_the_figures_say() -> None:
    report = ImbalanceReport.model_validate_json(
        (RESULTS / f"{imbalance_table.NAME}.json").read_bytes()
    )
    none, *others = report.strategies
    assert all(row.better_recall == len(report.seeds) for row in others)
    for row in others:
        assert (row.better_f1 == len(report.seeds)) == (row.name != "resampling"), row.name
        assert row.tail_calibration_error.mean < none.tail_calibration_error.mean, row.name
    assert [row.better for row in report.temperatures[:2]] == [len(report.seeds)] * 2


def test_the_page_on_pretraining_shows_the_committed_figures() -> None:
    table = PretrainingTable.model_validate_json(
        (RESULTS / f"{pretraining_table.NAME}.json").read_bytes()
    )
    shown = pretraining_table.render(table)
    assert fill_places(PRETRAINING, "pretraining", {"table": shown}) == PRETRAINING
    assert (RESULTS / f"{pretraining_table.NAME}.md").read_text("utf-8") == shown


def test_the_pages_name_every_setting() -> None:
    assert settings(IMBALANCE, "imbalance") == set(ImbalanceTable.model_fields)
    for name, table in (
        ("masking", MaskingTable),
        ("contrastive", ContrastiveTable),
        ("optimiser", PretrainingOptimiserTable),
    ):
        assert settings(PRETRAINING, name) == set(table.model_fields), name
