"""What a training run says of itself: accuracies, and a classification report."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field
from typing_extensions import Self

from tritium_builders.errors import needs
from tritium_builders.training.curves import Curve, make_curves
from tritium_builders.training.records import Record
from tritium_builders.training.single_label import SingleLabelDetails, single_label_details
from tritium_builders.training.versions import versions

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tritium_builders.data import Dataset
    from tritium_builders.training.folds import TrainedFold
    from tritium_builders.training.objective import HeadKind


class Figure(Record):
    """One figure over several seeds."""

    mean: float
    spread: float
    """Largest minus smallest."""
    by_seed: dict[int, float]

    @classmethod
    def of(cls, by_seed: Mapping[int, float]) -> Self:
        """Summarise one value for each seed."""
        values = list(by_seed.values())
        return cls(
            mean=round(statistics.fmean(values), 6),
            spread=round(max(values) - min(values), 6),
            by_seed={seed: round(value, 6) for seed, value in by_seed.items()},
        )


class Accuracy(Figure):
    """Share of the items that are labelled rightly, 0 to 1."""


class LabelScores(Record):
    """How the bundle's head does on one label; all but `items` are 0 to 1."""

    precision: float
    recall: float
    f1: float
    items: int


class TrainingReport(Record):
    """The content of report.json.

    All figures are of the held-out items, which no training and no tuning saw.
    """

    app: str
    data: str
    items: int
    held_out: int
    fold: int | None
    """None, as `folds`, where the data gives its own splits."""
    folds: int | None
    fusion: Accuracy
    text_model: Accuracy
    """A model of its own that only ever sees texts."""
    image_model: Accuracy
    """A model of its own that only ever sees pictures."""
    fusion_without_image: Accuracy
    """The fusion model with the image absent."""
    fusion_without_text: Accuracy
    """The fusion model with the text absent."""
    gain_points: float
    """Percentage points that fusion has over the better of the two models with one modality."""
    bundle_seed: int
    """The seed of the head in the bundle."""
    by_label: dict[str, LabelScores]
    """scikit-learn's classification report for the bundle's head, averages included."""
    single_label: SingleLabelDetails | None = None
    """None in bundles that were made before there were pages, as the two below are empty."""
    curves: Mapping[str, list[Curve]] = Field(default_factory=dict)
    """`fusion`, `text` or `image` -> a learning curve for each seed."""
    versions: Mapping[str, str] = Field(default_factory=dict)
    """What it was trained with."""

    def to_json(self) -> bytes:
        """Write report.json, the same bytes for the same figures."""
        return (self.model_dump_json(indent=2) + "\n").encode()


def make_report(
    *,
    app: str,
    dataset: Dataset,
    folds: int | None,
    trained: Mapping[HeadKind, Sequence[TrainedFold]],
    train: Sequence[int],
    kept: Collection[str],
) -> TrainingReport:
    """Compare the fusion heads with the single-modality heads of the same fold and seeds.

    Args:
        app: The app's name.
        dataset: What was trained on.
        folds: How many folds there are; None where the data gives its own splits.
        trained: For each kind of head one training a seed; the first fusion head is the one
            that goes into the bundle.
        train: Indices of the items that were trained on.
        kept: Ids of the held-out items that the bundle keeps.

    Raises:
        MissingExtraError: when scikit-learn is not installed.
    """

    def accuracy(kind: HeadKind, key: str) -> Accuracy:
        return Accuracy.of({one.seed: one.accuracy(dataset, key) for one in trained[kind]})

    fusion, text, image = (
        accuracy("fusion", "text,image"), accuracy("text", "text"), accuracy("image", "image")
    )  # fmt: skip
    shipped = trained["fusion"][0]
    return TrainingReport(
        app=app,
        data=dataset.origin,
        items=len(dataset.items),
        held_out=len(shipped.held_out),
        fold=None if folds is None else shipped.fold,
        folds=folds,
        fusion=fusion,
        text_model=text,
        image_model=image,
        fusion_without_image=accuracy("fusion", "text"),
        fusion_without_text=accuracy("fusion", "image"),
        gain_points=round(100 * (fusion.mean - max(text.mean, image.mean)), 2),
        bundle_seed=shipped.seed,
        by_label=_by_label(dataset, shipped),
        single_label=single_label_details(
            dataset,
            trained,
            most_frequent=Counter(dataset.targets[index] for index in train).most_common(1)[0][0],
            kept=kept,
        ),
        curves={kind: make_curves(own) for kind, own in trained.items()},
        versions=versions(),
    )


def held_out_words(fold: int | None, folds: int | None) -> str:
    """Which items were held out, in words; `fold` None: those that the manifest says."""
    return "the manifest's test split" if fold is None else f"fold {fold} of {folds}"


def render_report(report: TrainingReport) -> RenderableType:
    """Lay the report out for a terminal."""
    from rich.console import Group
    from rich.table import Table

    accuracies = Table(
        title=f"{report.app}: accuracy on {report.held_out} held-out items "
        f"({held_out_words(report.fold, report.folds)}, {len(report.fusion.by_seed)} seeds)"
    )
    accuracies.add_column("model")
    accuracies.add_column("mean", justify="right")
    accuracies.add_column("spread", justify="right")
    for name, accuracy in (
        ("fusion", report.fusion),
        ("text-only model", report.text_model),
        ("image-only model", report.image_model),
        ("fusion, image absent", report.fusion_without_image),
        ("fusion, text absent", report.fusion_without_text),
    ):
        accuracies.add_row(name, f"{accuracy.mean:.1%}", f"{100 * accuracy.spread:.1f} points")
    labels = Table(title=f"by label (the bundle's head, seed {report.bundle_seed})")
    labels.add_column("label")
    for column in ("precision", "recall", "F1", "items"):
        labels.add_column(column, justify="right")
    for label, row in report.by_label.items():
        figures = (f"{value:.2f}" for value in (row.precision, row.recall, row.f1))
        labels.add_row(label, *figures, str(row.items))
    gain = f"Fusion gains {report.gain_points:+.1f} points over the better single modality."
    return Group(accuracies, labels, gain)


def render_folds(reports: Sequence[TrainingReport]) -> RenderableType:
    """Lay the reports of all folds out for a terminal, with their mean."""
    from rich.table import Table

    table = Table(
        "held-out fold", "items", "fusion", "text-only model", "image-only model", "gain",
        title=f"{reports[0].app}: accuracy, mean of {len(reports[0].fusion.by_seed)} seeds",
    )  # fmt: skip
    for report in reports:
        models = (report.fusion, report.text_model, report.image_model)
        figures = (f"{accuracy.mean:.1%}" for accuracy in models)
        gain = f"{report.gain_points:+.1f} points"
        table.add_row(str(report.fold), str(report.held_out), *figures, gain)
    means = [
        statistics.fmean(report.fusion.mean for report in reports),
        statistics.fmean(report.text_model.mean for report in reports),
        statistics.fmean(report.image_model.mean for report in reports),
    ]
    overall = f"{100 * (means[0] - max(means[1:])):+.1f} points"
    total = sum(report.held_out for report in reports)
    table.add_section()
    table.add_row("all", str(total), *(f"{mean:.1%}" for mean in means), overall)
    return table


def _by_label(dataset: Dataset, trained: TrainedFold) -> dict[str, LabelScores]:
    with needs("train"):
        from sklearn.metrics import classification_report

    report: dict[str, Mapping[str, float]] = classification_report(
        np.asarray(dataset.targets)[list(trained.held_out)],
        trained.probabilities["text,image"].argmax(-1),
        labels=range(len(dataset.labels)),
        target_names=dataset.labels,
        output_dict=True,
        zero_division=0.0,
    )
    report.pop("accuracy", None)  # stands above, over all seeds
    return {
        label: LabelScores(
            precision=round(float(row["precision"]), 6),
            recall=round(float(row["recall"]), 6),
            f1=round(float(row["f1-score"]), 6),
            items=int(row["support"]),
        )
        for label, row in report.items()
    }
