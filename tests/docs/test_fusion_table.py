"""docs/fusion.md shows what `make fusion-table` wrote, and says which strategies there are."""

from __future__ import annotations

import json
import re
import statistics

import pytest

from tests.docs.pages import ROOT
from tritium_benchmarks.fusion_table import NAME, SEEDS, Run, gains, render, single_models
from tritium_benchmarks.report.pages import fill_places
from tritium_builders.training.recipe import STRATEGIES, FusionTable, load_recipe

RESULTS = ROOT / "benchmarks" / "results"
PAGE = (ROOT / "docs" / "fusion.md").read_text(encoding="utf-8")
APPS = ("openmoji", "openclipart")


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return [Run(**run) for run in json.loads((RESULTS / f"{NAME}.json").read_bytes())]


def of(runs: list[Run], app: str) -> list[Run]:
    return [run for run in runs if run.app == app]


def test_the_page_shows_the_committed_figures(runs: list[Run]) -> None:
    tables = {app: render(of(runs, app)) for app in APPS}
    written = (RESULTS / f"{NAME}.md").read_text(encoding="utf-8")
    assert all(table in written for table in tables.values())
    assert [PAGE.count(f"<!-- fusion: {app} -->") for app in APPS] == [1, 1]
    assert fill_places(PAGE, "fusion", tables) == PAGE


@pytest.mark.parametrize("app", APPS)
def test_every_item_is_held_out_once_for_every_strategy(runs: list[Run], app: str) -> None:
    own = of(runs, app)
    names = {run.name for run in own}
    assert set(STRATEGIES) <= names
    items = {name: sum(run.items for run in own if run.name == name) for name in names}
    assert len(set(items.values())) == 1
    for name in names:
        assert sorted(run.seed for run in own if run.name == name) == list(range(SEEDS)), name


@pytest.mark.parametrize("app", APPS)
def test_the_recipes_strategy_gains_five_points_and_none_is_much_better(
    runs: list[Run], app: str
) -> None:
    own = of(runs, app)
    chosen = load_recipe(ROOT / "recipes" / f"{app}.toml").fusion.strategy
    assert gains(own)[chosen] >= 5
    validation = {
        name: statistics.fmean(run.validation_accuracy for run in own if run.name == name)
        for name in gains(own)
    }
    # Folds alone differ by several points.
    assert validation[chosen] >= max(validation.values()) - 0.01


@pytest.mark.parametrize("app", APPS)
def test_with_a_modality_absent_the_recipes_head_loses_at_most_a_point(
    runs: list[Run], app: str
) -> None:
    own = of(runs, app)
    strategy = load_recipe(ROOT / "recipes" / f"{app}.toml").fusion.strategy
    for kind, alone in single_models(own).items():
        single = statistics.fmean(run.accuracy[kind] for run in alone)
        fused = [run.accuracy[kind] for run in own if run.name == strategy]
        assert statistics.fmean(fused) >= single - 0.01


def test_the_page_names_every_strategy_and_every_setting() -> None:
    described = re.findall(r"^\| `(\w+)` \|.*\|.*\|.*\d{4}.* \|$", PAGE, re.MULTILINE)
    assert sorted(described) == sorted(STRATEGIES)
    block = PAGE.partition("[fusion]\n")[2].partition("```")[0]
    assert set(re.findall(r"^(\w+) = ", block, re.MULTILINE)) == set(FusionTable.model_fields)
