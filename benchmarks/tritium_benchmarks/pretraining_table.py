"""Pretraining on the demo data: `make pretraining-table` writes results/pretraining.md.

    python -m tritium_benchmarks.pretraining_table recipes/openmoji.toml benchmarks/results \
        --pretraining recipes/pretraining/openmoji_contrastive.toml \
        --pretraining recipes/pretraining/openmoji_masked_language.toml --page docs/pretraining.md

Encoders are adapted by each recipe (one that lies in its folder already is taken), and heads are
trained on the original's features and on theirs: same split, same seeds, the plain head as it is
by default.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from tritium_benchmarks.report.pages import fill_places
from tritium_benchmarks.results import write_results
from tritium_builders.data.progress import track
from tritium_builders.training.folds import Prepared, prepare, train_fold
from tritium_builders.training.objective import HEAD_KINDS
from tritium_builders.training.pretraining.report import REPORT, PretrainingReport
from tritium_builders.training.pretraining.run import pretrain
from tritium_builders.training.recipe import (
    FusionTable,
    OptimiserTable,
    Recipe,
    load_pretraining_recipe,
    load_recipe,
)
from tritium_builders.training.records import Record
from tritium_builders.training.report import Accuracy

NAME = "pretraining"
SEEDS = 5
ORIGINAL = "as it came"


class EncodersRow(Record):
    """Heads on the features of one set of encoders. All but validation is of the held-out fold."""

    name: str
    validation: Accuracy
    fusion: Accuracy
    text_model: Accuracy
    """A model that only ever sees texts."""
    image_model: Accuracy
    report: PretrainingReport | None
    """How the encoders were adapted; None for the original ones."""


class PretrainingTable(Record):
    """The content of results/pretraining.json."""

    data: str
    held_out: int
    seeds: list[int]
    rows: list[EncodersRow]


def main(arguments: Sequence[str] | None = None) -> None:
    """Adapt, train, and write the table, its figures and the page that shows it."""
    parser = argparse.ArgumentParser(description="Compare encoders before and after pretraining.")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--pretraining", type=Path, action="append", default=[])
    parser.add_argument("--page", type=Path, required=True)
    given = parser.parse_args(arguments)
    default = {"fusion": FusionTable(), "optimiser": OptimiserTable()}
    recipe = load_recipe(given.recipe).model_copy(update=default)
    folder, seeds = given.recipe.parent, list(range(SEEDS))
    prepared = prepare(recipe, folder)
    rows = [_row(ORIGINAL, prepared, seeds, None)]
    for path in given.pretraining:
        encoders = Path(load_pretraining_recipe(path).out)
        if not (encoders / REPORT).is_file():
            pretrain(path)
        report = PretrainingReport.model_validate_json((encoders / REPORT).read_bytes())
        adapted = prepare(with_encoders(recipe, encoders, report), folder)
        rows.append(_row(report.objective, adapted, seeds, report))
    held_out = len(prepared.split(recipe.split.fold).held_out)
    table = PretrainingTable(
        data=prepared.dataset.origin, held_out=held_out, seeds=seeds, rows=rows
    )
    shown = render(table)
    write_results(given.results, NAME, table.model_dump(mode="json"), shown)
    page = given.page.read_text("utf-8")
    given.page.write_text(fill_places(page, "pretraining", {"table": shown}), "utf-8")


def with_encoders(recipe: Recipe, folder: Path, report: PretrainingReport) -> Recipe:
    """The same recipe with encoders that were adapted as its sources."""
    changes = {}
    for modality in report.adapted:
        name = f"{modality}_encoder"
        source = folder if report.objective == "masked_language" else folder / name
        changes[name] = getattr(recipe, name).model_copy(update={"source": str(source)})
    return recipe.model_copy(update=changes)


def _row(
    name: str, prepared: Prepared, seeds: Sequence[int], report: PretrainingReport | None
) -> EncodersRow:
    fold, dataset = prepared.recipe.split.fold, prepared.dataset
    prepared.split(fold)  # refuses encoders that have seen what is held out
    fusion, text, image = (
        {
            seed: train_fold(prepared, fold=fold, seed=seed, kind=kind)
            for seed in track(seeds, f"{name}: {kind}", total=len(seeds))
        }
        for kind in HEAD_KINDS
    )
    return EncodersRow(
        name=name,
        validation=Accuracy.of({seed: one.validation_accuracy for seed, one in fusion.items()}),
        fusion=Accuracy.of({seed: one.accuracy(dataset) for seed, one in fusion.items()}),
        text_model=Accuracy.of({seed: one.accuracy(dataset, "text") for seed, one in text.items()}),
        image_model=Accuracy.of(
            {seed: one.accuracy(dataset, "image") for seed, one in image.items()}
        ),
        report=report,
    )


def render(table: PretrainingTable) -> str:
    """Write the table as Markdown."""
    headings = (
        "encoders", "adapted", "loss before and after", "fusion, validation", "fusion",
        "text alone", "image alone",
    )  # fmt: skip
    rows = [_line(headings), _line(("---", "---", *["---:"] * (len(headings) - 2)))]
    for row in table.rows:
        report = row.report
        name = row.name if report is None else f"`{row.name}`"
        adapted = "" if report is None else " and ".join(report.adapted)
        losses = "" if report is None else f"{report.loss_before:.2f}, {min(report.losses):.2f}"
        figures = (row.validation, row.fusion, row.text_model, row.image_model)
        rows.append(_line((name, adapted, losses, *map(_percent, figures))))
    caption = (
        f"Accuracy in %, mean ± half the range over {len(table.seeds)} seeds; {table.held_out} "
        "held-out items that neither pretraining nor training saw. `loss before and after`: of the "
        "pretraining's own objective, on validation items."
    )
    return "\n".join([*rows, "", caption]) + "\n"


def _percent(figure: Accuracy) -> str:
    return f"{100 * figure.mean:.1f} ± {50 * figure.spread:.1f}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
