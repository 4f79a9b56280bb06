"""Fine-tuning against frozen encoders on the demo data: `make fine-tuning-table`.

    python -m tritium_benchmarks.fine_tuning_table recipes/openmoji.toml benchmarks/results \
        --page docs/fine-tuning.md

The recipe with its encoders frozen, with the last layers of one of them trained, and with LoRA.
The encoder's learning rate is the one that does best on the validation side with the first seed;
all seeds are trained with that one. The held-out items choose nothing. A table that was stopped
goes on where it was; with --keep rows that the results hold are not trained again.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from tritium_benchmarks.report.pages import fill_places
from tritium_benchmarks.results import write_results
from tritium_builders.training.recipe import Recipe, load_recipe
from tritium_builders.training.report import Accuracy, Figure

if TYPE_CHECKING:
    from tritium_builders.training.folds import TrainedFold
    from tritium_builders.training.recipe import EncoderTable

NAME = "fine_tuning"
SEEDS = (0, 1, 2)
GAIN = 1.0
"""Points of accuracy that fine-tuning should gain."""
SCHEDULE = {
    "head_epochs": 100, "max_epochs": 3, "schedule": "cosine", "warmup": 0.1,
    "metric": "accuracy", "gradient_clip": 1.0,
}  # fmt: skip
"""Of what is fine-tuned: a head first, then a few epochs of both."""


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    encoder: Mapping[str, Any]
    """What `[text_encoder]` says."""
    rates: tuple[float | None, ...]
    """Learning rates of the encoder to choose from; None where nothing of it learns."""
    optimiser: Mapping[str, Any]
    """What `[optimiser]` says beside the rate."""
    table: Literal["text_encoder", "image_encoder"] = "text_encoder"
    """Whose table that is."""


VARIANTS = (
    Variant("frozen", {}, (None,), {}),
    Variant("frozen, stopped by accuracy", {}, (None,), {"metric": "accuracy"}),
    Variant("text encoder, last 2 layers", {"train": "last", "layers": 2}, (2e-5, 1e-4), SCHEDULE),
    Variant(
        "text encoder, LoRA of rank 8",
        {"train": "lora", "lora": {"rank": 8}},
        (2e-4, 1e-3),
        SCHEDULE,
    ),
    Variant(
        "image encoder, last 4 blocks",
        {"train": "last", "layers": 4},
        (1e-4, 1e-3),
        SCHEDULE,
        "image_encoder",
    ),
)


class Row(BaseModel):
    """A variant with the learning rate that was chosen for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    variant: str
    rate: float | None
    tried: dict[str, float]
    """Rate -> validation accuracy of the first seed."""
    validation_accuracy: Accuracy
    validation_loss: Figure
    accuracy: Accuracy
    """Of the held-out items, as the two that follow."""
    text_only: Accuracy
    image_only: Accuracy
    learned: int
    """Weights of encoders that learned."""
    best_epochs: dict[int, int]
    """Seed -> the epoch whose weights were kept; 0: the head alone, before the encoder learned."""


class FineTuning(BaseModel):
    """All figures of the table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    app: str
    validation: int
    held_out: int
    fold: int
    folds: int
    rows: list[Row]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and write the table, its figures and the page that shows it."""
    parser = argparse.ArgumentParser(description="Fine-tune the demo's encoders.")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--page", type=Path, required=True)
    parser.add_argument("--keep", action="store_true", help="rows that the results hold")
    given = parser.parse_args(arguments)
    kept: dict[str, Row] = {}
    file = given.results / f"{NAME}.json"
    if given.keep and file.exists():
        before = FineTuning.model_validate_json(file.read_bytes())
        kept = {row.variant: row for row in before.rows}
    measured = measure(load_recipe(given.recipe), given.recipe.parent, kept)
    table = render(measured)
    write_results(given.results, NAME, measured.model_dump(mode="json"), table)
    page = given.page.read_text("utf-8")
    given.page.write_text(fill_places(page, "tuning", {"table": table}), "utf-8")


def measure(recipe: Recipe, folder: Path, kept: Mapping[str, Row]) -> FineTuning:
    """Train every variant with every rate and seed.

    Args:
        recipe: The demo's recipe.
        folder: Where it lies.
        kept: Rows that are there, by their variant.
    """
    from tritium_builders.training.folds import prepare

    rows = [kept.get(one.name) or row_of(one, recipe, folder) for one in VARIANTS]
    split = prepare(recipe, folder).split(recipe.split.fold)
    return FineTuning(
        app=recipe.app,
        validation=len(split.validation),
        held_out=len(split.held_out),
        fold=recipe.split.fold,
        folds=recipe.split.folds,
        rows=rows,
    )


def recipe_of(variant: Variant, rate: float | None, recipe: Recipe) -> Recipe:
    """The demo's recipe for one variant and rate."""
    content = recipe.model_dump()
    content["seeds"] = list(SEEDS)
    content[variant.table] |= variant.encoder
    content["optimiser"] |= {**variant.optimiser, "encoder_learning_rate": rate}
    return Recipe.model_validate(content)


def row_of(variant: Variant, recipe: Recipe, folder: Path) -> Row:
    """Choose a variant's rate with the first seed, and train it with all seeds."""
    from tritium_builders.training.checkpoints import forget
    from tritium_builders.training.folds import Prepared, prepare, train_fold
    from tritium_builders.training.trainable import trainable_copy

    fold = recipe.split.fold
    found: dict[float | None, tuple[Prepared, TrainedFold]] = {}
    for rate in variant.rates:
        prepared = prepare(recipe_of(variant, rate, recipe), folder)
        found[rate] = (prepared, train_fold(prepared, fold=fold, seed=SEEDS[0]))
    rate = max(found, key=lambda one: quality(found[one][1]))  # of equals the first
    prepared, first = found[rate]
    trained = {SEEDS[0]: first}
    trained |= {seed: train_fold(prepared, fold=fold, seed=seed) for seed in SEEDS[1:]}
    table: EncoderTable = getattr(prepared.recipe, variant.table)
    source = prepared.text if variant.table == "text_encoder" else prepared.image
    learned = 0
    if table.train != "none":
        encoder = trainable_copy(source.module, table, variant.table)
        learned = sum(weight.numel() for weight in encoder.parameters() if weight.requires_grad)

    def held_out(key: str) -> Accuracy:
        return Accuracy.of(
            {seed: one.accuracy(prepared.dataset, key) for seed, one in trained.items()}
        )

    row = Row(
        variant=variant.name,
        rate=rate,
        tried={str(one): round(own.validation_accuracy, 6) for one, (_, own) in found.items()},
        validation_accuracy=Accuracy.of(
            {seed: one.validation_accuracy for seed, one in trained.items()}
        ),
        validation_loss=Figure.of({seed: one.validation_loss for seed, one in trained.items()}),
        accuracy=held_out("text,image"),
        text_only=held_out("text"),
        image_only=held_out("image"),
        learned=learned,
        best_epochs={seed: one.epochs for seed, one in trained.items()},
    )
    for own, _ in found.values():
        forget(own.checkpoints(fold))
    return row


def quality(trained: TrainedFold) -> tuple[float, float]:
    """What is chosen by: accuracy on the validation side, then its loss."""
    return trained.validation_accuracy, -trained.validation_loss


def gain_of(measured: FineTuning) -> tuple[Row, float]:
    """The fine-tuned row that the validation side prefers, and its gain over such a frozen one.

    Returns:
        The row, and percentage points of held-out accuracy.
    """
    best, frozen = (
        max(
            (row for row in measured.rows if (row.learned > 0) == learns),
            key=lambda row: (row.validation_accuracy.mean, -row.validation_loss.mean),
        )
        for learns in (True, False)
    )
    return best, 100 * (best.accuracy.mean - frozen.accuracy.mean)


def render(measured: FineTuning) -> str:
    """Write the table in Markdown; the fine-tuned row that validation prefers is bold."""
    headings = ("what learns", "rate", "validation", "accuracy", "text only", "image only",
                "weights that learn", "best epochs")  # fmt: skip
    lines = [_line(headings), _line(("---", *["---:"] * (len(headings) - 1)))]
    best, gain = gain_of(measured)
    for row in measured.rows:
        figures = (row.validation_accuracy, row.accuracy, row.text_only, row.image_only)
        cells = [
            row.variant,
            "" if row.rate is None else f"{row.rate:.0e}",
            *(f"{100 * one.mean:.1f} ± {50 * one.spread:.1f}" for one in figures),
            f"{row.learned:,}",
            ", ".join(map(str, row.best_epochs.values())),
        ]
        lines.append(_line([f"**{cell}**" if row == best else cell for cell in cells]))
    verdict = "gains a point or more" if gain >= GAIN else "does not gain a point"
    seeds = len(measured.rows[0].accuracy.by_seed)
    spread = statistics.fmean(row.accuracy.spread for row in measured.rows)
    caption = (
        f"In %, mean ± half the range over {seeds} seeds. {measured.held_out} held-out items "
        f"(fold {measured.fold} of {measured.folds}); `validation` is the accuracy on "
        f"{measured.validation} others. Rates were chosen on these with the first seed. "
        f"Fine-tuning an encoder {verdict}: {best.variant}, which the validation side "
        f"prefers, is at {gain:+.1f} points beside the frozen one that it prefers, where seeds "
        f"alone differ by {100 * spread:.1f}. Best epochs: by seed, the one that was kept; where "
        "the encoder learns, 0 is the head alone, before it did."
    )
    return "\n".join([*lines, "", caption]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
