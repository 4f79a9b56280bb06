"""The sections of a classifier whose items have one label each."""

from __future__ import annotations

from collections.abc import Sequence

from tritium_builders.reports import plots
from tritium_builders.reports.content import LABEL_ROWS, Make, PageContent, Section, Tile
from tritium_builders.reports.drawing import Ink
from tritium_builders.reports.thumbnails import thumbnail
from tritium_builders.training.report import TrainingReport
from tritium_builders.training.single_label import SingleLabelDetails, change_of

MATRIX_LABELS = 24
"""With more labels than these a confusion matrix is no picture any more."""
CONFUSIONS = 10
AVERAGES = ("micro avg", "macro avg", "weighted avg", "samples avg")
CHANGES = {
    "gained": (
        "Gained",
        "Both models with one modality are wrong, and fusion is right.",
    ),
    "settled": (
        "Settled",
        "One of the two is right, and fusion sides with it.",
    ),
    "lost": (
        "Lost",
        "At least one of the two is right, and fusion is wrong.",
    ),
}


def tiles(content: PageContent) -> list[Tile]:
    """The figures at the top of the page."""
    report = _report(content)
    seeds = len(report.fusion.by_seed)
    gain = f"{report.gain_points:+.1f}".replace("-", "\N{MINUS SIGN}")
    found = [
        Tile(
            "Fusion",
            f"{100 * report.fusion.mean:.1f}\N{NARROW NO-BREAK SPACE}%",
            f"accuracy, mean of {seeds} seed{'' if seeds == 1 else 's'}",
        ),
        Tile("Gain", gain, "points over the better single modality"),
    ]
    if "macro avg" in report.by_label:
        macro = report.by_label["macro avg"].f1
        found.append(
            Tile("Macro F1", f"{macro:.3f}", f"the bundle's head, seed {report.bundle_seed}")
        )
    if report.single_label is not None:
        error = report.single_label.reliability.calibration_error
        found.append(Tile("Calibration error", f"{error:.3f}", "0 is perfect, 1 the worst"))
    return found


def _report(content: PageContent) -> TrainingReport:
    assert isinstance(content.report, TrainingReport)  # noqa: S101 - sections.py chose by it
    return content.report


def models(content: PageContent) -> Section:
    """Accuracies of fusion and of the models with one modality."""
    report = _report(content)
    rows = [
        ("fusion", report.fusion, Ink.FUSION),
        ("text-only model", report.text_model, Ink.TEXT),
        ("image-only model", report.image_model, Ink.IMAGE),
        ("fusion, image absent", report.fusion_without_image, Ink.TEXT),
        ("fusion, text absent", report.fusion_without_text, Ink.IMAGE),
    ]
    return Section(
        "models",
        "Models",
        "Text, image, and both",
        "models.html.j2",
        {"rows": rows, "plot": plots.compared(rows), "seeds": list(report.fusion.by_seed)},
    )


def missing(content: PageContent) -> Section | None:
    """Accuracy when a modality is missing at random."""
    details = _report(content).single_label
    if details is None:
        return None
    return Section(
        "missing",
        "Missing modality",
        "When a modality is missing",
        "missing.html.j2",
        {"missing": details.missing, "plot": plots.missing(details.missing)},
    )


def labels(content: PageContent) -> Section:
    """The classification report."""
    rows = list(_report(content).by_label.items())
    own = [(name, row) for name, row in rows if name not in AVERAGES or name in content.labels]
    averages = [row for row in rows if row not in own]
    left_out = max(0, len(own) - LABEL_ROWS)
    if left_out:
        own = sorted(own, key=lambda row: (row[1].f1, row[0]))[:LABEL_ROWS]
    return Section(
        "labels",
        "Labels",
        "Label by label",
        "labels.html.j2",
        {"rows": own, "averages": averages, "left_out": left_out},
    )


def confusion(content: PageContent) -> Section | None:
    """The confusion matrix, and the most frequent confusions."""
    details = _report(content).single_label
    if details is None:
        return None
    found = sorted(
        (
            (items, right, answered)
            for right, row in details.confusion.items()
            for answered, items in row.items()
            if right != answered
        ),
        key=lambda one: (-one[0], one[1:]),
    )
    values = {
        "labels": content.labels,
        "matrix": _matrix(content.labels, details)
        if len(content.labels) <= MATRIX_LABELS
        else None,
        "confusions": found[:CONFUSIONS],
    }
    return Section("confusion", "Confusions", "What is taken for what", "confusion.html.j2", values)


def _matrix(
    labels: Sequence[str], details: SingleLabelDetails
) -> list[tuple[str, int, list[tuple[int, float]]]]:
    """For each right label: its items, and for each answer their number and share."""
    rows = []
    for label in labels:
        row = details.confusion.get(label, {})
        total = sum(row.values())
        cells = [
            (row.get(answered, 0), row.get(answered, 0) / max(total, 1)) for answered in labels
        ]
        rows.append((label, total, cells))
    return rows


def reliability(content: PageContent) -> Section | None:
    """Whether probabilities mean what they say."""
    details = _report(content).single_label
    if details is None:
        return None
    figures = details.reliability
    values = {"reliability": figures, "plot": plots.reliability(figures)}
    return Section(
        "reliability", "Reliability", "Do probabilities hold?", "reliability.html.j2", values
    )


def curves(content: PageContent) -> Section | None:
    """How the heads learned."""
    by_kind = {kind: own for kind, own in _report(content).curves.items() if own}
    if "fusion" not in by_kind:
        return None
    values = {
        "by_kind": by_kind,
        "plot": plots.learning(by_kind["fusion"], "accuracy"),
        "measure": "accuracy",
    }
    return Section("curves", "Learning", "How it learned", "curves.html.j2", values)


def examples(content: PageContent) -> Section | None:
    """Items whose answer fusion changes, for the better and for the worse."""
    details = _report(content).single_label
    if details is None:
        return None
    groups = [
        (
            title,
            about,
            sum(one.items for one in details.outcomes if change_of(one) == change),
            [one for one in details.examples if one.change == change],
        )
        for change, (title, about) in CHANGES.items()
    ]
    thumbnails = {
        one.id: thumbnail(content.pictures[one.id])
        for one in details.examples
        if one.id in content.pictures
    }
    values = {"groups": groups, "thumbnails": thumbnails, "outcomes": details.outcomes}
    return Section(
        "examples", "Examples", "Where fusion changes the answer", "examples.html.j2", values
    )


SECTIONS: tuple[Make, ...] = (
    models, missing, labels, confusion, reliability, examples, curves,
)  # fmt: skip
