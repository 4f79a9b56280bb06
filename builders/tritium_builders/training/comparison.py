"""What `tritium train --compare` found, and how it is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium_builders.training.recipe import Strategy
from tritium_builders.training.records import Record
from tritium_builders.training.report import Accuracy, Figure

if TYPE_CHECKING:
    from rich.console import RenderableType


class StrategyScores(Record):
    """One fusion strategy. All figures but validation's are of the held-out fold."""

    strategy: Strategy
    validation_accuracy: Accuracy
    """What the best is chosen by."""
    validation_loss: Figure
    """Cross-entropy; decides between equal accuracies."""
    accuracy: Accuracy
    macro_f1: Figure
    """Mean of all labels' F1, 0 to 1."""
    calibration_error: Figure
    """Expected calibration error, 0 to 1, over `bins` bins of equal width."""
    text_only: Accuracy
    """With the image absent."""
    image_only: Accuracy
    """With the text absent."""
    parameters: int
    """Of the head."""
    milliseconds: float
    """Of the exported head for one item with both modalities: ONNX Runtime, one thread, median."""


class Comparison(Record):
    """Fusion strategies that were trained on one split, with the same seeds."""

    app: str
    data: str
    items: int
    validation: int
    held_out: int
    fold: int
    folds: int
    seeds: list[int]
    bins: int
    best: Strategy
    """The strategy with the highest mean validation accuracy. The held-out fold has no say."""
    strategies: list[StrategyScores]
    text_model: Accuracy
    """A model of its own that only ever sees texts, to compare `text_only` with."""
    image_model: Accuracy
    """A model of its own that only ever sees pictures, to compare `image_only` with."""


def best_of(strategies: list[StrategyScores]) -> Strategy:
    """Choose by validation accuracy, among equals by validation loss."""
    best = min(
        strategies, key=lambda row: (-row.validation_accuracy.mean, row.validation_loss.mean)
    )
    return best.strategy


HEADINGS = (
    "strategy", "validation", "accuracy", "macro F1", "calibration error", "text only",
    "image only", "parameters", "ms",
)  # fmt: skip


def cells(comparison: Comparison) -> list[tuple[str, ...]]:
    """The table's rows: percentages as `mean ± half of (largest - smallest)` over the seeds."""
    rows = [
        (
            row.strategy,
            _percent(row.validation_accuracy),
            _percent(row.accuracy),
            _percent(row.macro_f1),
            _percent(row.calibration_error),
            _percent(row.text_only),
            _percent(row.image_only),
            f"{row.parameters:,}",
            f"{row.milliseconds:.3f}",
        )
        for row in comparison.strategies
    ]
    text, image = comparison.text_model, comparison.image_model
    alone = ("models of one modality", "", "", "", "", _percent(text), _percent(image), "", "")
    return [*rows, alone]


def render_comparison(comparison: Comparison) -> RenderableType:
    """Lay the comparison out for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=f"{comparison.app}: {comparison.held_out} held-out items (fold {comparison.fold} of "
        f"{comparison.folds}), {len(comparison.seeds)} seeds, in %: mean ± half the range"
    )
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "strategy" else "right")
    for row in cells(comparison):
        if row[1] == "":
            table.add_section()
        table.add_row(*row, style="bold green" if row[0] == comparison.best else None)
    chosen = (
        f"Best by accuracy on {comparison.validation} validation items: {comparison.best}. "
        f"Calibration error: {comparison.bins} bins of equal width. "
        "ms: the head alone, one item, one thread."
    )
    return Group(table, Text(chosen))  # Text: nothing in it is coloured


def _percent(figure: Figure) -> str:
    return f"{100 * figure.mean:.1f} ± {50 * figure.spread:.1f}"
