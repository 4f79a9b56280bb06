"""The drawings of a training report: one function each, from figures to SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from tritium_builders.reports.drawing import Ink, drawing
from tritium_builders.training.curves import Curve
from tritium_builders.training.report import Figure
from tritium_builders.training.single_label import MissingModality, Reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 200
"""Of a line; of longer ones every n-th point is drawn."""
FUSION, TEXT, IMAGE = Ink.FUSION.value, Ink.TEXT.value, Ink.IMAGE.value
INK, QUIET, LINE = Ink.TEXT_COLOUR.value, Ink.QUIET.value, Ink.LINE.value
SOLID, DASHED, DOTTED = "-", "--", ":"
"""Lines differ in more than their colours, which not everybody sees."""


def compared(models: Sequence[tuple[str, Figure, Ink]], measure: str = "accuracy") -> Markup:
    """A row for each model: every seed, and their mean.

    Args:
        models: Name, figure, colour.
        measure: What the figures are; an accuracy is shown in percent.
    """
    percent = measure == "accuracy"
    scale, form = (100, "{:.1%}") if percent else (1, "{:.3f}")
    alt = f"{measure} of each model: " + ", ".join(
        f"{name} {form.format(figure.mean)}" for name, figure, _ in models
    )
    every = [scale * value for _, figure, _ in models for value in figure.by_seed.values()]
    lowest, highest = min(every), max(every)
    span = max(highest - lowest, 0.01 * scale)
    with drawing("models", alt, height=0.42 * len(models) + 0.5, legend=False) as drawn:
        axes = drawn.axes[0]
        for row, (_, figure, ink) in enumerate(models):
            values = [scale * value for value in figure.by_seed.values()]
            axes.plot([min(values), max(values)], [row, row], color=ink.value, alpha=0.45)
            axes.plot(values, [row] * len(values), "|", color=ink.value, markersize=9)
            axes.plot([scale * figure.mean], [row], "o", color=ink.value, markersize=7)
            axes.text(
                max(values) + 0.03 * span, row, form.format(figure.mean),
                va="center", color=INK,
            )  # fmt: skip
        axes.set_yticks(range(len(models)), [name for name, *_ in models], color=INK)
        axes.set_ylim(len(models) - 0.5, -0.5)
        axes.set_xlim(lowest - 0.05 * span, highest + 0.22 * span)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(f"{measure} on held-out items{', %' if percent else ''}")
    return drawn.svg


def predicted(name: str, number: int, pairs: Sequence[tuple[float, float]]) -> Markup:
    """Answers beside what is right; on the diagonal they are equal.

    Args:
        name: Of the score.
        number: Of the drawing in its page.
        pairs: What is right, and what was answered.
    """
    alt = f"Predicted {name} beside the right {name} of {len(pairs)} held-out items."
    with drawing(f"predicted-{number}", alt, legend=False) as drawn:
        axes = drawn.axes[0]
        right, answered = zip(*pairs, strict=True)
        ends = [min(*right, *answered), max(*right, *answered)]
        axes.plot(ends, ends, DASHED, color=QUIET, linewidth=1.2)
        axes.plot(right, answered, "o", color=FUSION, markersize=3.5, alpha=0.55)
        axes.set_xlabel(f"right {name}")
        axes.set_ylabel(f"predicted {name}")
    return drawn.svg


def learning(curves: Sequence[Curve], score: str) -> Markup:
    """Loss and score by epoch, every seed; the epoch that was kept has a dot.

    Args:
        curves: One a seed.
        score: What `Curve.score` is, for instance `accuracy`.
    """
    alt = f"Learning curves of {len(curves)} seeds: loss and validation {score} by epoch."
    with drawing("curves", alt, columns=2, height=2.9) as drawn:
        loss, scores = drawn.axes
        for number, curve in enumerate(curves):
            kept = curve.best_epoch - 1
            once = number == 0  # one line of the legend for all seeds
            _line(loss, curve.training_loss, "training" if once else None, QUIET, DOTTED)
            _line(loss, curve.validation_loss, "validation" if once else None, FUSION, SOLID)
            _line(scores, curve.score, None, FUSION, SOLID)
            for axes, values in ((loss, curve.validation_loss), (scores, curve.score)):
                axes.plot([kept + 1], [values[kept]], "o", color=FUSION, markersize=4.5)
        loss.set_title("loss")
        scores.set_title(f"validation {score}")
        for axes in drawn.axes:
            axes.set_xlabel("epoch")
            axes.locator_params(axis="x", integer=True)
    return drawn.svg


def _line(axes: Axes, values: Sequence[float], label: str | None, colour: str, style: str) -> None:
    step = max(1, -(-len(values) // POINTS))
    epochs = range(1, len(values) + 1, step)
    axes.plot(epochs, values[::step], style, color=colour, label=label, linewidth=1.2, alpha=0.9)


def reliability(figures: Reliability) -> Markup:
    """Accuracy beside probability, in bins; on the diagonal, probabilities mean what they say."""
    alt = (
        "Reliability diagram: share of right answers by the probability of the answer; expected "
        f"calibration error {figures.calibration_error:.3f}."
    )
    with drawing("reliability", alt) as drawn:
        axes = drawn.axes[0]
        total = sum(one.items for one in figures.bins) or 1
        for one in figures.bins:
            if not one.items:
                continue
            width = 100 * (one.high - one.low)
            # How many answers a bar is of is what makes it worth looking at.
            strength = 0.25 + 0.75 * min(1.0, 5 * one.items / total)
            axes.bar(
                100 * one.low, 100 * one.accuracy, 0.86 * width,
                align="edge", color=FUSION, alpha=strength, linewidth=0,
            )  # fmt: skip
        axes.plot([0, 100], [0, 100], DASHED, color=QUIET, linewidth=1.2, label="as they say")
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.set_xlabel("probability of the answer, %")
        axes.set_ylabel("right answers, %")
    return drawn.svg


def missing(figures: MissingModality) -> Markup:
    """Accuracy by the share of the items that lack a modality."""
    last = {name: f"{values[-1]:.1%}" for name, values in figures if name != "shares"}
    alt = (
        "Accuracy of the fusion model by the share of items that lack a modality: at 100 % "
        f"{last['fusion_lacks_image']} without images and {last['fusion_lacks_text']} without "
        "texts."
    )
    with drawing("missing", alt, height=3.6) as drawn:
        axes = drawn.axes[0]
        shares = [100 * share for share in figures.shares]
        for label, values, colour, style, width in (
            ("fusion, image missing", figures.fusion_lacks_image, TEXT, SOLID, 2.2),
            ("text-only, text missing", figures.text_model_lacks_text, TEXT, DOTTED, 1.4),
            ("fusion, text missing", figures.fusion_lacks_text, IMAGE, SOLID, 2.2),
            ("image-only, image missing", figures.image_model_lacks_image, IMAGE, DOTTED, 1.4),
            ("fusion, either missing", figures.fusion_lacks_either, FUSION, DASHED, 2.2),
        ):
            accuracy = [100 * value for value in values]
            axes.plot(shares, accuracy, style, color=colour, label=label, linewidth=width)
        axes.set_xlim(0, 100)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("items that lack it, %")
        axes.set_ylabel("accuracy, %")
    return drawn.svg
