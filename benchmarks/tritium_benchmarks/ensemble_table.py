"""Ensembles on the demo data: `make ensemble-table` writes results/ensembles.md.

    python -m tritium_benchmarks.ensemble_table recipes/openmoji.toml benchmarks/results \
        --page docs/ensembles.md

Each kind of `[ensemble]` beside the single head, with the same encoders, split and seeds; and what
`tritium ensemble` makes of three single heads of different strategies. Everything is chosen on the
validation side. Figures but the seconds are the same on every run of one machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from tritium_benchmarks.report.pages import fill_places
from tritium_benchmarks.results import write_results
from tritium_builders.data.progress import track
from tritium_builders.ensembles.weighting import fit_stacking, tuned_weights
from tritium_builders.models.ensembles import GIVEN, Member, make_ensemble
from tritium_builders.training.folds import Prepared, TrainedFold, prepare, train_fold
from tritium_builders.training.metrics import accuracy, calibration_error, macro_f1
from tritium_builders.training.network import answers_of
from tritium_builders.training.recipe import EnsembleTable, Strategy, load_recipe

NAME = "ensembles"
SEEDS = 3
STRATEGY: Strategy = "concat"
"""Of the single head and of the members: the quickest to train, since stacking trains twenty."""
BUNDLES: tuple[Strategy, ...] = ("concat", "gated", "late")
KINDS: dict[str, EnsembleTable | None] = {
    "single head": None,
    "`average`": EnsembleTable(kind="average"),
    "`bagging`": EnsembleTable(kind="bagging"),
    "`boosting`": EnsembleTable(kind="boosting"),
    "`stacking`": EnsembleTable(kind="stacking", folds=3),
}


class Row(BaseModel):
    """One way to answer; figures are 0 to 1 by seed, in order, on the held-out fold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    heads: list[int]
    accuracy: list[float]
    macro_f1: list[float]
    calibration_error: list[float]
    text_only: list[float]
    image_only: list[float]
    seconds: float
    """Of training, mean over the seeds; of bundles, of all of them."""


class EnsembleTableResult(BaseModel):
    """All ways beside each other."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    strategy: Strategy
    bundles: list[Strategy]
    seeds: list[int]
    held_out: int
    items: int
    rows: list[Row]


@dataclass(frozen=True)
class _Answers:
    heads: int
    probabilities: dict[str, Any]
    seconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and write the table, its figures and the page that shows it."""
    parser = argparse.ArgumentParser(description="Compare ensembles.")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--page", type=Path, required=True)
    given = parser.parse_args(arguments)
    prepared = prepare(load_recipe(given.recipe).with_strategy(STRATEGY), given.recipe.parent)
    result = measure(prepared, range(SEEDS))
    table = render(result)
    write_results(given.results, NAME, result.model_dump(mode="json"), table)
    page = given.page.read_text("utf-8")
    given.page.write_text(fill_places(page, NAME, {"table": table}), "utf-8")


def measure(prepared: Prepared, seeds: Sequence[int]) -> EnsembleTableResult:
    """Train every kind with every seed.

    Args:
        prepared: The data, with a recipe without `[ensemble]`.
        seeds: Of the members' weights, batches and bootstraps.
    """
    fold = prepared.recipe.split.fold
    held_out = prepared.split(fold).held_out
    targets = np.asarray(prepared.dataset.targets)[held_out]
    found: dict[str, list[_Answers]] = {}
    for seed in track(seeds, "Training ensembles", total=len(seeds)):
        for name, answers in _all(prepared, seed):
            found.setdefault(name, []).append(answers)
    return EnsembleTableResult(
        strategy=STRATEGY,
        bundles=list(BUNDLES),
        seeds=list(seeds),
        held_out=len(held_out),
        items=len(prepared.dataset.items),
        rows=[_row(name, answers, targets) for name, answers in found.items()],
    )


def _all(prepared: Prepared, seed: int) -> Iterator[tuple[str, _Answers]]:
    for name, table in KINDS.items():
        trained, seconds = _train(prepared, seed, STRATEGY, table)
        members = getattr(trained.head, "members", [trained.head])
        yield name, _Answers(len(members), dict(trained.probabilities), seconds)
    alone = [_train(prepared, seed, strategy, None) for strategy in BUNDLES]
    total = sum(seconds for _, seconds in alone)
    heads = [trained for trained, _ in alone]
    for strategy, trained in zip(BUNDLES[1:], heads[1:], strict=True):
        yield f"single `{strategy}`", _Answers(1, dict(trained.probabilities), 0.0)
    for name, how in (
        ("bundles, alike", "alike"), ("bundles, tuned", "tuned"), ("bundles, stacking", "stacking")
    ):  # fmt: skip
        yield name, _Answers(len(heads), _together(prepared, heads, how), total)


def _train(
    prepared: Prepared, seed: int, strategy: Strategy, table: EnsembleTable | None
) -> tuple[TrainedFold, float]:
    recipe = prepared.recipe.with_strategy(strategy).model_copy(update={"ensemble": table})
    own, fold = replace(prepared, recipe=recipe), recipe.split.fold
    own.keep_split(fold, prepared.split(fold))
    began = time.process_time()
    return train_fold(own, fold=fold, seed=seed), time.process_time() - began


def _together(prepared: Prepared, heads: Sequence[TrainedFold], how: str) -> dict[str, Any]:
    """What `tritium ensemble` makes of these heads, which share their encoders."""
    split = prepared.split(prepared.recipe.split.fold)
    rule: Any = "stacking" if how == "stacking" else "average"
    ensemble = make_ensemble(
        [Member(one.head) for one in heads], rule, len(prepared.dataset.labels)
    )
    if how != "alike":
        watched = torch.from_numpy(split.validation)
        targets = torch.tensor(prepared.dataset.targets)[watched]
        features = prepared.features.select(watched)
        own = [answers_of(one.head, features, GIVEN) for one in heads]
        logits = {given: torch.stack([one[given] for one in own], 1) for given in own[0]}
        if how == "stacking":
            fit_stacking(ensemble, logits, targets)
        else:
            for given, one in logits.items():
                ensemble.set_weights(given, tuned_weights(one, targets))
    features = prepared.features.select(torch.from_numpy(split.held_out))
    return {
        ",".join(given): logits.softmax(-1).numpy()
        for given, logits in answers_of(ensemble, features, GIVEN).items()
    }


def _row(name: str, answers: Sequence[_Answers], targets: Any) -> Row:
    def each(measure_: Any, key: str = "text,image") -> list[float]:
        return [round(measure_(one.probabilities[key], targets), 6) for one in answers]

    return Row(
        name=name,
        heads=[one.heads for one in answers],
        accuracy=each(accuracy),
        macro_f1=each(macro_f1),
        calibration_error=each(calibration_error),
        text_only=each(accuracy, "text"),
        image_only=each(accuracy, "image"),
        seconds=round(float(np.mean([one.seconds for one in answers])), 1),
    )


def render(result: EnsembleTableResult) -> str:
    """Write the figures as a Markdown table."""
    headings = (
        "answers by", "heads", "accuracy", "macro F1", "calibration error", "text only",
        "image only", "training, CPU s",
    )  # fmt: skip
    lines = [_line(headings), _line(("---", *["---:"] * (len(headings) - 1)))]
    for row in result.rows:
        heads = sorted(set(row.heads))
        count = f"{heads[0]} to {heads[-1]}" if len(heads) > 1 else str(heads[0])
        figures = (
            row.accuracy, row.macro_f1, row.calibration_error, row.text_only, row.image_only
        )  # fmt: skip
        seconds = f"{row.seconds:.0f}" if row.seconds else ""
        lines.append(_line((row.name, count, *(_percent(one) for one in figures), seconds)))
    bundles = ", ".join(f"`{strategy}`" for strategy in result.bundles)
    caption = (
        f"In %, mean ± half the range over {len(result.seeds)} seeds, {result.held_out} held-out "
        f"items of {result.items:,}. Heads of `[ensemble]` are `{result.strategy}`, five of them "
        f"(stacking: folds = 3); the bundles are {bundles}. Weights and regressions were chosen on "
        "the validation side."
    )
    return "\n".join([*lines, "", caption]) + "\n"


def _percent(values: Sequence[float]) -> str:
    return f"{100 * np.mean(values):.1f} ± {50 * (max(values) - min(values)):.1f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
