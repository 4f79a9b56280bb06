"""The table of class imbalance: its long tail, what it counts as better, and its figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tritium_benchmarks import imbalance_table
from tritium_benchmarks.imbalance_table import (
    VARIANTS,
    long_tailed,
    measure,
    render,
    render_temperatures,
    tail_counts,
)
from tritium_builders.data import Dataset, Item
from tritium_builders.training.recipe import ImbalanceTable, Recipe

LABELS = ("a", "b", "c", "d")


@pytest.fixture
def dataset() -> Dataset:
    """Four labels with 100, 90, 80 and 10 items."""
    counts = dict(zip(LABELS, (100, 90, 80, 10), strict=True))
    items = [
        Item(f"{label}{number}", "x", b"", label, f"{label}{number}")
        for label, count in counts.items()
        for number in range(count)
    ]
    return Dataset("some", tuple(items), origin="here", licence="CC0-1.0")


def test_a_long_tail_falls_exponentially_and_takes_no_more_than_there_is(dataset: Dataset) -> None:
    everything = range(len(dataset.items))
    assert tail_counts(dataset, everything, 8.0) == {"a": 100, "b": 50, "c": 25, "d": 10}


def test_the_draw_has_these_counts_and_is_the_seeds(dataset: Dataset) -> None:
    everything = np.arange(len(dataset.items))
    drawn = long_tailed(dataset, everything, 8.0, seed=0)
    labels = [dataset.items[index].label for index in drawn]
    assert {label: labels.count(label) for label in LABELS} == tail_counts(dataset, everything, 8.0)
    assert len(set(drawn.tolist())) == len(drawn)
    assert (drawn == long_tailed(dataset, everything, 8.0, seed=0)).all()
    assert set(drawn.tolist()) != set(long_tailed(dataset, everything, 8.0, seed=1).tolist())


def test_every_variant_is_a_recipes(dataset: Dataset) -> None:
    for settings in VARIANTS.values():
        ImbalanceTable(**settings)


class _Prepared:
    """Enough of `Prepared` for figures that somebody else makes up."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.recipe: Any = Recipe.model_construct()
        object.__setattr__(self.recipe, "split", type("Table", (), {"folds": 2}))

    def split(self, fold: int) -> Any:
        return type("Split", (), {"train": np.arange(len(self.dataset.items))})


def test_figures_are_of_all_folds_and_compared_seed_by_seed(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`none` never finds the rare label d; the others do in seed 1, and in one fold of seed 0."""

    def answered(prepared: Any, name: str, seed: int, fold: int) -> Any:
        targets = np.array([0, 0, 1, 2, 3])
        said = targets.copy()
        if name == "none":
            said[4] = 0
        elif seed == 0 and fold == 0:
            said[4] = 1
        probabilities = 0.7 * np.eye(4)[said] + 0.075
        keys = ["text,image"]
        if name == "temperature":
            keys = [
                f"{g} {w}" for g in ("text + image", "text", "image") for w in ("before", "after")
            ]
        return (
            targets,
            np.array([True, True, True, False, False]),
            dict.fromkeys(keys, probabilities),
        )

    monkeypatch.setattr(imbalance_table, "_train", answered)
    monkeypatch.setattr(imbalance_table, "RARE", 1)
    report = measure(_Prepared(dataset), [0, 1])  # type: ignore[arg-type]
    assert report.rare == ["d"]
    none, other = report.strategies[0], report.strategies[1]
    assert none.rare_recall.by_seed == {0: 0, 1: 0}
    assert other.rare_recall.by_seed == {0: 0.5, 1: 1}
    assert other.accuracy.by_seed == {0: 0.9, 1: 1}
    assert other.tail_accuracy.by_seed == none.tail_accuracy.by_seed == {0: 1, 1: 1}
    assert (other.better_recall, none.better_recall) == (2, 0)
    assert other.calibration_error.by_seed[1] == pytest.approx(0.225)
    table = render(report)
    assert "| `none` | " in table
    assert "| 2 and 2 of 2 |" in table
    assert "| text + image | 22.5 ± " not in render_temperatures(report)  # of seed 0 too
    assert "| 0 of 2 |" in render_temperatures(report)
