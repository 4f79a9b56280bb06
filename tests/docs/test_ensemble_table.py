"""docs/ensembles.md shows what `make ensemble-table` wrote, and says which kinds there are."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from tests.docs.pages import ROOT
from tritium_benchmarks.ensemble_table import KINDS, NAME, SEEDS, EnsembleTableResult, render
from tritium_benchmarks.report.pages import fill_places
from tritium_builders.training.recipe import EnsembleTable
from tritium_builders.training.recipe.ensemble import EnsembleKind

RESULTS = ROOT / "benchmarks" / "results"
PAGE = (ROOT / "docs" / "ensembles.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def result() -> EnsembleTableResult:
    return EnsembleTableResult.model_validate_json((RESULTS / f"{NAME}.json").read_bytes())


def test_the_page_shows_the_committed_figures(result: EnsembleTableResult) -> None:
    table = render(result)
    assert (RESULTS / f"{NAME}.md").read_text(encoding="utf-8") == table
    assert PAGE.count("<!-- ensembles: table -->") == 1
    assert fill_places(PAGE, NAME, {"table": table}) == PAGE


def test_the_table_is_complete(result: EnsembleTableResult) -> None:
    assert set(KINDS) < {row.name for row in result.rows}
    assert all(len(row.accuracy) == len(result.seeds) == SEEDS for row in result.rows)


def test_the_page_names_every_kind_and_every_setting() -> None:
    described = re.findall(r"^\| `(\w+)` \|.*\|.*\|.*\d{4}.* \|$", PAGE, re.MULTILINE)
    assert sorted(described) == sorted(get_args(EnsembleKind))
    block = PAGE.partition("[ensemble]\n")[2].partition("```")[0]
    assert set(re.findall(r"^(\w+) = ", block, re.MULTILINE)) == set(EnsembleTable.model_fields)
