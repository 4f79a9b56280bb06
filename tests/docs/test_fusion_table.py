"""docs/fusion.md shows what `make fusion-table` wrote, and says which strategies there are."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT
from tritium_benchmarks.fusion_table import NAME, SEEDS, render
from tritium_benchmarks.report.pages import fill_places
from tritium_builders.training.comparison import Comparison, best_of
from tritium_builders.training.recipe import OVER_SEQUENCES, STRATEGIES, FusionTable

RESULTS = ROOT / "benchmarks" / "results"
PAGE = (ROOT / "docs" / "fusion.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return Comparison.model_validate_json((RESULTS / f"{NAME}.json").read_bytes())


def test_the_page_shows_the_committed_figures(comparison: Comparison) -> None:
    table = render(comparison)
    assert (RESULTS / f"{NAME}.md").read_text(encoding="utf-8") == table
    assert PAGE.count("<!-- fusion: table -->") == 1
    assert fill_places(PAGE, "fusion", {"table": table}) == PAGE


def test_the_comparison_is_complete(comparison: Comparison) -> None:
    assert {row.strategy for row in comparison.strategies} == set(STRATEGIES) - OVER_SEQUENCES
    assert comparison.seeds == list(range(SEEDS))
    assert comparison.best == best_of(comparison.strategies)
    (line,) = [line for line in render(comparison).splitlines() if "**" in line]
    assert line.startswith(f"| **`{comparison.best}`** |")


def test_with_a_modality_absent_heads_are_as_good_as_models_of_the_other(
    comparison: Comparison,
) -> None:
    for row in comparison.strategies:
        assert row.text_only.mean > comparison.text_model.mean - 0.03, row.strategy
        assert row.image_only.mean > comparison.image_model.mean - 0.03, row.strategy


def test_every_strategy_gains_by_fusing(comparison: Comparison) -> None:
    single = max(comparison.text_model.mean, comparison.image_model.mean)
    for row in comparison.strategies:
        assert row.accuracy.mean > single, row.strategy


def test_the_page_names_every_strategy_and_every_setting() -> None:
    described = re.findall(r"^\| `(\w+)` \|.*\|.*\|.*\d{4}.* \|$", PAGE, re.MULTILINE)
    assert sorted(described) == sorted(STRATEGIES)
    block = PAGE.partition("[fusion]\n")[2].partition("```")[0]
    assert set(re.findall(r"^(\w+) = ", block, re.MULTILINE)) == set(FusionTable.model_fields)
