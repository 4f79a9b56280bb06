"""Class imbalance on the demo data: `make imbalance-table` writes results/imbalance.md.

    python -m tritium_benchmarks.imbalance_table recipes/openmoji.toml benchmarks/results \
        --page docs/class-imbalance.md

The demo data's labels are made long-tailed, on the sides that training sees; every strategy of
`[imbalance]` is trained with the same draws and seeds. Every fold is held out in turn, and the
figures are of the held-out items of all folds together, one figure a seed. Nothing was tuned: the
settings are those of the papers, and of a recipe that says nothing. A second table is of
temperatures, on the demo data as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tritium_benchmarks.report.pages import fill_places
from tritium_benchmarks.results import write_results
from tritium_builders.data import Dataset
from tritium_builders.data.progress import track
from tritium_builders.models import TemperatureScaled
from tritium_builders.models.fusion.base import BOTH, IMAGE, TEXT
from tritium_builders.training.folds import Prepared, TrainedFold, prepare, train_fold
from tritium_builders.training.metrics import accuracy, calibration_error, macro_f1
from tritium_builders.training.network import answers_of
from tritium_builders.training.recipe import (
    FusionTable,
    ImbalanceTable,
    OptimiserTable,
    load_recipe,
)
from tritium_builders.training.records import Record
from tritium_builders.training.report import Figure
from tritium_builders.training.splits import Indices, Split

NAME = "imbalance"
SEEDS = 5
RATIO = 20.0
"""Items of the most frequent label to items of the rarest."""
RARE = 3
"""How many labels are called rare: they have a quarter of the most frequent one's items or less."""
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "weighted_loss": {"strategy": "weighted_loss"},
    "weighted_loss, effective": {
        "strategy": "weighted_loss", "weights": "effective", "beta": 0.99,
    },
    "resampling": {"strategy": "resampling"},
    "focal_loss": {"strategy": "focal_loss"},
    "focal_loss, inverse": {"strategy": "focal_loss", "weights": "inverse"},
    "logit_adjustment": {"strategy": "logit_adjustment"},
}  # fmt: skip


class StrategyRow(Record):
    """One strategy, on the held-out items of all folds."""

    name: str
    accuracy: Figure
    macro_f1: Figure
    rare_recall: Figure
    """Mean recall of the rare labels, 0 to 1."""
    calibration_error: Figure
    tail_accuracy: Figure
    """On a part of the held-out items with the training side's label shares."""
    tail_calibration_error: Figure
    better_f1: int
    """In how many of the seeds macro F1 is higher than with strategy none."""
    better_recall: int


class TemperatureRow(Record):
    """What temperatures do, on the demo data as it is, for one set of modalities."""

    given: str
    before: Figure
    """Calibration error, 0 to 1."""
    after: Figure
    better: int
    """In how many of the seeds it is lower after."""


class ImbalanceReport(Record):
    """The content of results/imbalance.json."""

    data: str
    items: int
    folds: int
    seeds: list[int]
    ratio: float
    counts: dict[str, int]
    """Items of each label on the training side of fold 0, frequent ones first."""
    rare: list[str]
    strategies: list[StrategyRow]
    temperatures: list[TemperatureRow]


@dataclass
class Answers:
    """What the heads of one seed said about the items that they never saw."""

    targets: list[Any] = field(default_factory=list)
    tail: list[Any] = field(default_factory=list)
    probabilities: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, targets: Any, tail: Any, probabilities: Mapping[str, Any]) -> None:
        """Add a fold's held-out items."""
        self.targets.append(targets)
        self.tail.append(tail)
        for key, values in probabilities.items():
            self.probabilities.setdefault(key, []).append(values)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and write both tables, their figures and the page that shows them."""
    parser = argparse.ArgumentParser(description="Compare what is done about class imbalance.")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--page", type=Path, required=True)
    given = parser.parse_args(arguments)
    # The plain head as it is by default: what is compared is losses and draws, and it trains in a
    # tenth of the time of the demo app's own.
    default = {"fusion": FusionTable(), "optimiser": OptimiserTable()}
    recipe = load_recipe(given.recipe).model_copy(update=default)
    prepared = prepare(recipe, given.recipe.parent, every_fold=True)
    report = measure(prepared, range(SEEDS))
    tables = {"table": render(report), "temperatures": render_temperatures(report)}
    write_results(given.results, NAME, report.model_dump(mode="json"), "\n".join(tables.values()))
    page = given.page.read_text("utf-8")
    given.page.write_text(fill_places(page, "imbalance", tables), "utf-8")


def measure(prepared: Prepared, seeds: Sequence[int]) -> ImbalanceReport:
    """Train every strategy with every seed and every fold held out in turn."""
    dataset, table = prepared.dataset, prepared.recipe.split
    counts = tail_counts(dataset, prepared.split(0).train, RATIO)
    ordered = sorted(counts, key=lambda label: -counts[label])
    rare = ordered[-RARE:]
    runs = [
        (name, seed, fold)
        for name in [*VARIANTS, "temperature"]
        for seed in seeds
        for fold in range(table.folds)
    ]
    answers: dict[str, dict[int, Answers]] = {}
    for name, seed, fold in track(runs, "Training heads", total=len(runs)):
        own = answers.setdefault(name, {}).setdefault(seed, Answers())
        own.add(*_train(prepared, name, seed, fold))
    places = [dataset.labels.index(label) for label in rare]
    figures = {name: _figures(answers[name], places) for name in VARIANTS}
    return ImbalanceReport(
        data=dataset.origin,
        items=len(dataset.items),
        folds=table.folds,
        seeds=list(seeds),
        ratio=RATIO,
        counts={label: counts[label] for label in ordered},
        rare=rare,
        strategies=[
            StrategyRow(
                name=name,
                **own,
                better_f1=_better(own["macro_f1"], figures["none"]["macro_f1"]),
                better_recall=_better(own["rare_recall"], figures["none"]["rare_recall"]),
            )
            for name, own in figures.items()
        ],
        temperatures=_temperatures(answers["temperature"]),
    )


def tail_counts(dataset: Dataset, indices: Iterable[int], ratio: float) -> dict[str, int]:
    """How many items of each label a long tail has: falling exponentially, and as many as exist.

    Args:
        dataset: The items.
        indices: The side that is to become long-tailed.
        ratio: Items of the most frequent label to items of the rarest.

    Source: Cui et al. 2019, section 5.1 (long-tailed CIFAR).
    """
    labels = [dataset.items[index].label for index in indices]
    there = {label: labels.count(label) for label in dataset.labels}
    ordered = sorted(there, key=lambda label: (-there[label], label))
    largest, steps = there[ordered[0]], len(ordered) - 1
    return {
        label: min(there[label], max(1, round(largest * ratio ** (-place / steps))))
        for place, label in enumerate(ordered)
    }


def long_tailed(dataset: Dataset, indices: Indices, ratio: float, seed: int) -> Indices:
    """Draw a long-tailed part of one side; the same seed draws the same items.

    Args:
        dataset: The items.
        indices: The side.
        ratio: Items of the most frequent label to items of the rarest.
        seed: Of the draw.
    """
    left = tail_counts(dataset, indices.tolist(), ratio)
    kept = []
    for index in np.random.default_rng(seed).permutation(indices).tolist():
        label = dataset.items[index].label
        if left[label] > 0:
            left[label] -= 1
            kept.append(index)
    return np.sort(np.array(kept, dtype=np.int64))


def _train(
    prepared: Prepared, name: str, seed: int, fold: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], dict[str, npt.NDArray[Any]]]:
    """Targets of the held-out items, which of them are in the tail, and what was answered."""
    dataset, split = prepared.dataset, prepared.split(fold)
    targets = np.asarray(dataset.targets)[split.held_out]
    if name == "temperature":
        trained = train_fold(
            _changed(prepared, split, fold, {}, "temperature"), fold=fold, seed=seed
        )
        return targets, np.ones(len(targets), bool), _before_and_after(prepared, trained)
    short = Split(
        long_tailed(dataset, split.train, RATIO, seed),
        long_tailed(dataset, split.validation, RATIO, seed),
        split.held_out,
    )
    trained = train_fold(
        _changed(prepared, short, fold, VARIANTS[name], "none"), fold=fold, seed=seed
    )
    tail = np.isin(split.held_out, long_tailed(dataset, split.held_out, RATIO, seed))
    return targets, tail, {"text,image": trained.probabilities["text,image"]}


def _changed(
    prepared: Prepared, split: Split, fold: int, settings: Mapping[str, Any], calibration: str
) -> Prepared:
    fusion = prepared.recipe.fusion.model_copy(update={"calibration": calibration})
    changes = {"imbalance": ImbalanceTable(**settings), "fusion": fusion}
    changed = replace(prepared, recipe=prepared.recipe.model_copy(update=changes))
    changed.keep_split(fold, split)
    return changed


def _before_and_after(prepared: Prepared, trained: TrainedFold) -> dict[str, npt.NDArray[Any]]:
    import torch

    assert isinstance(trained.head, TemperatureScaled)  # noqa: S101 - the recipe asked for it
    features = prepared.features.select(torch.tensor(trained.held_out))
    before = answers_of(trained.head.head, features, (BOTH, TEXT, IMAGE))
    return {
        **{f"{' + '.join(given)} before": one.softmax(-1).numpy() for given, one in before.items()},
        **{
            f"{key.replace(',', ' + ')} after": values
            for key, values in trained.probabilities.items()
        },
    }


def _figures(answers: Mapping[int, Answers], rare: Sequence[int]) -> dict[str, Figure]:
    by_seed: dict[str, dict[int, float]] = {}
    for seed, one in answers.items():
        targets, tail = np.concatenate(one.targets), np.concatenate(one.tail)
        given = np.concatenate(one.probabilities["text,image"])
        right = given.argmax(-1) == targets
        figures = {
            "accuracy": accuracy(given, targets),
            "macro_f1": macro_f1(given, targets),
            "rare_recall": float(np.mean([right[targets == label].mean() for label in rare])),
            "calibration_error": calibration_error(given, targets),
            "tail_accuracy": accuracy(given[tail], targets[tail]),
            "tail_calibration_error": calibration_error(given[tail], targets[tail]),
        }
        for name, value in figures.items():
            by_seed.setdefault(name, {})[seed] = value
    return {name: Figure.of(values) for name, values in by_seed.items()}


def _temperatures(answers: Mapping[int, Answers]) -> list[TemperatureRow]:
    rows = []
    for given in ("text + image", "text", "image"):
        before, after = (
            Figure.of(
                {
                    seed: calibration_error(
                        np.concatenate(one.probabilities[f"{given} {when}"]),
                        np.concatenate(one.targets),
                    )
                    for seed, one in answers.items()
                }
            )
            for when in ("before", "after")
        )
        rows.append(
            TemperatureRow(given=given, before=before, after=after, better=_better(before, after))
        )
    return rows


def _better(own: Figure, other: Figure) -> int:
    return sum(value > other.by_seed[seed] for seed, value in own.by_seed.items())


def render(report: ImbalanceReport) -> str:
    """Write the strategies as a Markdown table."""
    headings = (
        "strategy", "macro F1", "rare labels' recall", "accuracy", "calibration error",
        "accuracy, long-tailed", "calibration error, long-tailed", "better seeds",
    )  # fmt: skip
    rows = [_line(headings), _line(("---", *["---:"] * (len(headings) - 1)))]
    for row in report.strategies:
        figures = (
            row.macro_f1, row.rare_recall, row.accuracy, row.calibration_error,
            row.tail_accuracy, row.tail_calibration_error,
        )  # fmt: skip
        better = f"{row.better_f1} and {row.better_recall} of {len(report.seeds)}"
        last = "" if row.name == "none" else better
        rows.append(_line((f"`{row.name}`", *map(_percent, figures), last)))
    counts = ", ".join(f"{label} {count}" for label, count in report.counts.items())
    caption = (
        f"In %, mean ± half the range over {len(report.seeds)} seeds, each with draws of its own; "
        f"{report.items:,} items, each held out once over {report.folds} folds. Training items of "
        f"fold 0: {counts}. Rare: {', '.join(report.rare)}. `long-tailed`: on held-out items with "
        "the training side's label shares. `better seeds`: with higher macro F1, and with higher "
        "recall of the rare labels, than `none`."
    )
    return "\n".join([*rows, "", caption]) + "\n"


def render_temperatures(report: ImbalanceReport) -> str:
    """Write what temperatures do as a Markdown table."""
    rows = [
        _line(("answers from", "calibration error", "with temperature", "better seeds")),
        _line(("---", "---:", "---:", "---:")),
        *(
            _line(
                (
                    row.given,
                    _percent(row.before),
                    _percent(row.after),
                    f"{row.better} of {len(report.seeds)}",
                )
            )
            for row in report.temperatures
        ),
    ]
    caption = (
        f"In %, mean ± half the range over {len(report.seeds)} seeds; {report.items:,} items of "
        f"the demo data as it is, each held out once over {report.folds} folds."
    )
    return "\n".join([*rows, "", caption]) + "\n"


def _percent(figure: Figure) -> str:
    return f"{100 * figure.mean:.1f} ± {50 * figure.spread:.1f}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
