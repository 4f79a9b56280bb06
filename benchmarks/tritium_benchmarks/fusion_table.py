"""Fusion strategies on both packaged data sets: `make fusion-table` fills docs/fusion.md.

    python -m tritium_benchmarks.fusion_table recipes/openmoji.toml recipes/openclipart.toml \
        --results benchmarks/results --page docs/fusion.md

Five seeds, each of which holds another of the five folds out, so that every item of a data set is
answered once by a model that never saw it. Heads over pooled features and over sequences, each
with its recipe's settings; models of one modality with their dropout searched on the validation
sides. Trainings that results/fusion_strategies.json already holds are not done again. With --times
the heads of all strategies are timed again, in one go: trainings of several days, or machines, do
not compare.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from tritium_benchmarks.report.pages import fill_places
from tritium_benchmarks.results import write_results
from tritium_builders.data.cache import content_key
from tritium_builders.data.progress import track
from tritium_builders.training.compare import head_milliseconds
from tritium_builders.training.folds import Prepared, prepare, train_fold
from tritium_builders.training.metrics import calibration_error, macro_f1
from tritium_builders.training.objective import HeadKind
from tritium_builders.training.recipe import OVER_SEQUENCES, STRATEGIES, Recipe, load_recipe

NAME = "fusion_strategies"
SEEDS = 5
SINGLE = ("text", "image")
DROPOUTS = (0.3, 0.5, 0.7)
"""Of the models of one modality; the best by validation accuracy is shown."""
BOTH = "text,image"
HEADINGS = (
    "strategy", "validation", "accuracy", "gain", "macro F1", "calibration error", "text only",
    "image only", "parameters", "ms",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training, and how it did on the fold that it never saw."""

    key: str
    """Of data set, recipe, fold, seed and head: equal keys, equal trainings."""
    app: str
    name: str
    """The strategy, or `text 0.5`: a model of one modality and its dropout."""
    seed: int
    """Also the fold."""
    validation_accuracy: float
    items: int
    accuracy: dict[str, float]
    """0 to 1, by the modalities that are given."""
    macro_f1: float
    calibration_error: float
    parameters: int
    milliseconds: float
    """Of the exported head for one item, as `tritium train --compare` measures it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, and write the tables, their figures and the page that shows them."""
    parser = argparse.ArgumentParser(description="Compare fusion strategies.")
    parser.add_argument("recipes", type=Path, nargs="+")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--page", type=Path, required=True)
    parser.add_argument("--only", nargs="+", help="only these strategies, text or image")
    parser.add_argument("--times", action="store_true", help="time every strategy's head again")
    given = parser.parse_args(arguments)
    file = given.results / f"{NAME}.json"
    done = [Run(**run) for run in json.loads(file.read_text("utf-8"))] if file.exists() else []
    places: dict[str, str] = {}
    for path in given.recipes:
        recipe = load_recipe(path)
        for run in _missing(recipe, path.parent, done, given.only):
            done.append(run)
            _write(given.results, done)  # a run that is cut off loses one training
        if given.times:
            done = _timed_again(recipe, path.parent, done)
    for app in dict.fromkeys(run.app for run in done):
        places[app] = render([run for run in done if run.app == app])
    _write(given.results, done)
    page = given.page.read_text("utf-8")
    given.page.write_text(fill_places(page, "fusion", places), "utf-8")


def _write(folder: Path, runs: Sequence[Run]) -> None:
    apps = dict.fromkeys(run.app for run in runs)
    tables = (f"## {app}\n\n{render([run for run in runs if run.app == app])}" for app in apps)
    write_results(folder, NAME, [asdict(run) for run in runs], "\n".join(tables))


def _missing(
    recipe: Recipe, folder: Path, done: Sequence[Run], only: Sequence[str] | None
) -> Iterator[Run]:
    """Do the trainings that are not done, pooled ones first: their features are small."""
    variants: list[tuple[str, HeadKind, Recipe]] = [
        (name, "fusion", _of(recipe, strategy=name)) for name in STRATEGIES
    ]
    for kind in SINGLE:
        for dropout in DROPOUTS:
            own = _of(recipe, strategy="concat", dropout=dropout)  # which it does not look at
            variants.append((f"{kind} {dropout}", cast("HeadKind", kind), own))
    for pooled in (True, False):
        prepared: Prepared | None = None
        todo = [
            (name, kind, own, seed)
            for name, kind, own in variants
            for seed in range(SEEDS)
            if (own.fusion.strategy not in OVER_SEQUENCES) == pooled
            and (only is None or name.split()[0] in only)
        ]
        for name, kind, own, seed in track(todo, f"Training {recipe.app}", total=len(todo)):
            prepared = prepared or prepare(own, folder)
            key = _key(prepared, own, name, seed)
            if not any(run.key == key for run in done):
                yield _train(prepared, own, name, kind, seed, key)


def _timed_again(recipe: Recipe, folder: Path, done: Sequence[Run]) -> list[Run]:
    """Time each strategy's head: what it takes does not depend on how long it learned."""
    own = [_of(recipe, strategy=name) for name in STRATEGIES]
    own = [
        one.model_copy(update={"optimiser": one.optimiser.model_copy(update={"max_epochs": 1})})
        for one in own
    ]
    times: dict[str, float] = {}
    for pooled in (True, False):
        names = [one for one in own if (one.fusion.strategy not in OVER_SEQUENCES) == pooled]
        prepared = prepare(names[0], folder)
        for one in track(names, f"Timing {recipe.app}", total=len(names)):
            head = train_fold(replace(prepared, recipe=one), fold=0, seed=0).head
            times[one.fusion.strategy] = round(head_milliseconds(prepared, head), 4)
    return [
        replace(run, milliseconds=times[run.name])
        if run.app == recipe.app and run.name in times
        else run
        for run in done
    ]


def _of(recipe: Recipe, **fusion: Any) -> Recipe:
    """The recipe with another `[fusion]`, and the pooling that it needs."""
    content = recipe.model_dump()
    content["fusion"] |= fusion
    if content["fusion"]["strategy"] in OVER_SEQUENCES:
        content["text_encoder"]["pooling"] = content["image_encoder"]["pooling"] = "none"
    return Recipe.model_validate(content)


def _key(prepared: Prepared, recipe: Recipe, name: str, seed: int) -> str:
    excluded = {"seeds", "out", "samples", "app"}
    # Without defaults: a setting that recipes get later changes none of these trainings.
    tables = recipe.model_dump_json(exclude=excluded, exclude_defaults=True)
    parts = (prepared.dataset.content_hash, tables, name, str(seed))
    return content_key(part.encode() for part in parts)[:16]


def _train(
    prepared: Prepared, recipe: Recipe, name: str, kind: HeadKind, seed: int, key: str
) -> Run:
    split = recipe.split.model_copy(update={"fold": seed % recipe.split.folds})
    own = replace(prepared, recipe=recipe.model_copy(update={"split": split}))
    trained = train_fold(own, fold=split.fold, seed=seed, kind=kind)
    targets = np.asarray(prepared.dataset.targets)[list(trained.held_out)]
    main_key = BOTH if kind == "fusion" else kind
    probabilities = trained.probabilities[main_key]
    accuracies = {given: trained.accuracy(own.dataset, given) for given in trained.probabilities}
    return Run(
        key=key,
        app=recipe.app,
        name=name,
        seed=seed,
        validation_accuracy=round(trained.validation_accuracy, 6),
        items=len(targets),
        accuracy={given: round(accuracy, 6) for given, accuracy in accuracies.items()},
        macro_f1=round(macro_f1(probabilities, targets), 6),
        calibration_error=round(calibration_error(probabilities, targets), 6),
        parameters=sum(parameter.numel() for parameter in trained.head.parameters()),
        milliseconds=round(head_milliseconds(own, trained.head), 4) if kind == "fusion" else 0.0,
    )


def single_models(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The models of one modality, each with the dropout that validation prefers.

    Args:
        runs: Of one data set.
    """
    best = {}
    for kind in SINGLE:
        own = [_named(runs, f"{kind} {dropout}") for dropout in DROPOUTS]
        if all(own):
            best[kind] = max(own, key=lambda ones: _mean(one.validation_accuracy for one in ones))
    return best


def gains(runs: Sequence[Run]) -> dict[str, float]:
    """Points of accuracy that each strategy has over the better model of one modality.

    Args:
        runs: Of one data set.
    """
    alone = max(
        _mean(one.accuracy[kind] for one in ones) for kind, ones in single_models(runs).items()
    )
    return {
        name: 100 * (_mean(one.accuracy[BOTH] for one in _named(runs, name)) - alone)
        for name in STRATEGIES
        if _named(runs, name)
    }


def render(runs: Sequence[Run]) -> str:
    """Write one data set's table in Markdown; the best by validation accuracy is bold.

    Args:
        runs: Of one data set.
    """
    strategies = {name: own for name in STRATEGIES if (own := _named(runs, name))}
    singles = single_models(runs)
    rows = [_line(HEADINGS), _line(("---", *["---:"] * (len(HEADINGS) - 1)))]
    if strategies and len(singles) == len(SINGLE):
        gain = gains(runs)
        best = max(
            strategies, key=lambda name: _mean(run.validation_accuracy for run in strategies[name])
        )
        for name, own in strategies.items():
            cells = [f"`{name}`", *_cells(own, gain[name])]
            rows.append(_line([f"**{cell}**" if name == best else cell for cell in cells]))
        text, image = (_percent([run.accuracy[kind] for run in singles[kind]]) for kind in SINGLE)
        rows.append(_line(["models of one modality", *[""] * 5, text, image, "", ""]))
    items = sum(run.items for run in _named(runs, f"text {DROPOUTS[0]}"))
    chosen = ", ".join(f"{kind} {own[0].name.split()[1]}" for kind, own in singles.items())
    caption = (
        f"In %, mean ± half the range over {SEEDS} seeds, each with another fold of {SEEDS} held "
        f"out: all {items:,} items. The best by accuracy on the validation sides is bold. `gain`: "
        "points over the better model of one modality, whose dropout was chosen by validation, "
        f"too ({chosen}). `ms`: the head's exported graph for one item, ONNX Runtime, one thread."
    )
    return "\n".join([*rows, "", caption]) + "\n"


def _named(runs: Sequence[Run], name: str) -> list[Run]:
    return [run for run in runs if run.name == name]


def _cells(runs: Sequence[Run], gain: float) -> list[str]:
    return [
        _percent([run.validation_accuracy for run in runs]),
        _percent([run.accuracy[BOTH] for run in runs]),
        f"{gain:+.1f}",
        _percent([run.macro_f1 for run in runs]),
        _percent([run.calibration_error for run in runs]),
        *(_percent([run.accuracy[kind] for run in runs]) for kind in SINGLE),
        f"{runs[0].parameters:,}",
        f"{statistics.median(run.milliseconds for run in runs):.3f}",
    ]


def _mean(values: Any) -> float:
    return statistics.fmean(values)


def _percent(values: Sequence[float]) -> str:
    return f"{100 * _mean(values):.1f} ± {50 * (max(values) - min(values)):.1f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
