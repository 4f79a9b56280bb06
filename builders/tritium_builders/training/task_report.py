"""What a training run says of itself where the task is no classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from tritium_builders.training.curves import Curve, make_curves
from tritium_builders.training.records import Record
from tritium_builders.training.report import Figure, held_out_words
from tritium_builders.training.task_details import (
    ScoreFit,
    ThresholdScores,
    score_fits,
    threshold_scores,
)
from tritium_builders.training.versions import versions
from tritium_client.contract import Task

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tritium_builders.training.folds import Prepared, TrainedFold
    from tritium_builders.training.objective import HeadKind, Objective


class TaskReport(Record):
    """The content of report.json.

    All figures are of the held-out items, which no training and no tuning saw.
    """

    app: str
    task: Task
    data: str
    items: int
    held_out: int
    fold: int | None
    """None, as `folds`, where the data gives its own splits."""
    folds: int | None
    measure: str
    """What the five figures below are, for instance `entity F1`; more is better."""
    fusion: Figure
    text_model: Figure | None
    """A model of its own that only ever sees texts; None where the task has no such thing."""
    image_model: Figure | None
    """A model of its own that only ever sees pictures; likewise."""
    fusion_without_image: Figure | None
    """The fusion model with the image absent."""
    fusion_without_text: Figure | None
    """The fusion model with the text absent."""
    figures: dict[str, Figure]
    """More of the fusion model, by name."""
    thresholds: dict[str, float]
    """Of a multi-label bundle: from which probability on each label holds, as validation chose."""
    bundle_seed: int
    """The seed of the head in the bundle."""
    by_label: dict[str, ThresholdScores] = Field(default_factory=dict)
    """Of a multi-label bundle's head."""
    by_score: dict[str, ScoreFit] = Field(default_factory=dict)
    """Of a regression bundle's head."""
    curves: dict[str, list[Curve]] = Field(default_factory=dict)
    """`fusion`, `text` or `image` -> a learning curve for each seed."""
    versions: dict[str, str] = Field(default_factory=dict)
    """What it was trained with."""

    def to_json(self) -> bytes:
        """Write report.json, the same bytes for the same figures."""
        return (self.model_dump_json(indent=2) + "\n").encode()


def make_task_report(
    prepared: Prepared,
    objective: Objective,
    trained: Mapping[HeadKind, Sequence[TrainedFold]],
) -> TaskReport:
    """Compare the fusion heads with the single-modality heads of the same fold and seeds.

    Args:
        prepared: What was trained on.
        objective: As the first fusion head's training had it.
        trained: For each kind of head one training a seed.

    Raises:
        MissingExtraError: when a package of the metrics is not installed.
    """
    recipe, dataset = prepared.recipe, prepared.dataset
    shipped = trained["fusion"][0]
    targets = objective.targets[list(shipped.held_out)].numpy()

    def scored(kind: HeadKind, key: str) -> Figure | None:
        """The task's own measure, of what was answered with these modalities."""
        own = trained.get(kind, ())
        if not own or key not in own[0].probabilities or recipe.task == "embedding":
            return None
        return Figure.of(
            {
                one.seed: objective.figures(
                    {"text,image": one.probabilities[key]}, targets, one.thresholds
                )[objective.measure]
                for one in own
            }
        )

    found = {
        one.seed: objective.figures(one.probabilities, targets, one.thresholds)
        for one in trained["fusion"]
    }
    figures = {
        name: Figure.of({seed: own[name] for seed, own in found.items()})
        for name in found[shipped.seed]
    }
    folds = None if dataset.has_sides else recipe.split.folds
    main = next(iter(shipped.probabilities.values()))
    return TaskReport(
        app=recipe.app,
        task=recipe.task,
        data=dataset.origin,
        items=len(dataset.items),
        held_out=len(shipped.held_out),
        fold=None if folds is None else shipped.fold,
        folds=folds,
        measure=objective.measure,
        fusion=figures.pop(objective.measure),
        text_model=scored("text", "text"),
        image_model=scored("image", "image"),
        fusion_without_image=scored("fusion", "text"),
        fusion_without_text=scored("fusion", "image"),
        figures=figures,
        thresholds=dict(zip(dataset.labels, shipped.thresholds, strict=False)),
        bundle_seed=shipped.seed,
        by_label=threshold_scores(dataset.labels, main, targets, shipped.thresholds)
        if recipe.task == "multilabel"
        else {},
        by_score=score_fits(dataset.labels, main, targets) if recipe.task == "regression" else {},
        curves={kind: make_curves(own) for kind, own in trained.items()},
        versions=versions(),
    )


def render_task_report(report: TaskReport) -> RenderableType:
    """Lay the report out for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=f"{report.app}: {report.measure} on {report.held_out} held-out items "
        f"({held_out_words(report.fold, report.folds)}, {len(report.fusion.by_seed)} seeds)"
    )
    table.add_column("model")
    table.add_column("mean", justify="right")
    table.add_column("spread", justify="right")
    for name, figure in (
        ("fusion", report.fusion),
        ("text-only model", report.text_model),
        ("image-only model", report.image_model),
        ("fusion, image absent", report.fusion_without_image),
        ("fusion, text absent", report.fusion_without_text),
    ):
        if figure is not None:
            table.add_row(name, f"{figure.mean:.4g}", f"{figure.spread:.2g}")
    more = Table("figure", title="fusion")
    more.add_column("mean", justify="right")
    more.add_column("spread", justify="right")
    for name, figure in report.figures.items():
        more.add_row(Text(name), f"{figure.mean:.4g}", f"{figure.spread:.2g}")
    limits = ", ".join(f"{label} {value:.2f}" for label, value in report.thresholds.items())
    return Group(table, more, *([Text(f"Thresholds: {limits}")] if limits else []))
