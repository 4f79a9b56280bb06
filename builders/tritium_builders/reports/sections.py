"""What a training report says, section by section: some for every task, the others by task.

A task adds its own list to `BY_TASK`; each section is left out where there is nothing to show.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tritium_builders.bundle_schema import Sources
from tritium_builders.data.card import DataCard
from tritium_builders.reports import plots
from tritium_builders.reports.drawing import Ink
from tritium_builders.reports.thumbnails import thumbnail
from tritium_builders.training.report import TrainingReport
from tritium_builders.training.single_label import SingleLabelDetails, change_of

MATRIX_LABELS = 24
"""With more labels than these a confusion matrix is no picture any more."""
LABEL_ROWS = 200
CONFUSIONS = 10
RECIPE_CHARACTERS = 20_000
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


@dataclass(frozen=True)
class PageContent:
    """All that a report's page is made of."""

    report: TrainingReport
    labels: Sequence[str]
    """In the order of the probabilities."""
    sources: Sources
    recipe: str
    """As recipe.json holds it."""
    pictures: Mapping[str, bytes]
    """Sample id -> encoded picture, of the validation samples."""
    card: DataCard | None = None


@dataclass(frozen=True)
class Section:
    """One section of a page."""

    id: str
    short: str
    """In the list at the top of the page."""
    title: str
    template: str
    values: Mapping[str, Any] = field(default_factory=dict)


Make = Callable[[PageContent], Section | None]


def sections_of(content: PageContent) -> list[Section]:
    """Everything that there is to say, in the order of the page."""
    made = (make(content) for make in (*BY_TASK["classification"], data, provenance))
    return [section for section in made if section is not None]


def models(content: PageContent) -> Section:
    """Accuracies of fusion and of the models with one modality."""
    report = content.report
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
        {"rows": rows, "plot": plots.accuracies(rows), "seeds": list(report.fusion.by_seed)},
    )


def missing(content: PageContent) -> Section | None:
    """Accuracy when a modality is missing at random."""
    details = content.report.single_label
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
    rows = list(content.report.by_label.items())
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
    details = content.report.single_label
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
    details = content.report.single_label
    if details is None:
        return None
    figures = details.reliability
    values = {"reliability": figures, "plot": plots.reliability(figures)}
    return Section(
        "reliability", "Reliability", "Do probabilities hold?", "reliability.html.j2", values
    )


def curves(content: PageContent) -> Section | None:
    """How the heads learned."""
    by_kind = {kind: own for kind, own in content.report.curves.items() if own}
    if "fusion" not in by_kind:
        return None
    values = {"by_kind": by_kind, "plot": plots.learning(by_kind["fusion"], "accuracy")}
    return Section("curves", "Learning", "How it learned", "curves.html.j2", values)


def examples(content: PageContent) -> Section | None:
    """Items whose answer fusion changes, for the better and for the worse."""
    details = content.report.single_label
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


def data(content: PageContent) -> Section | None:
    """The data card."""
    if content.card is None:
        return None
    return Section("data", "Data", "The data", "card.html.j2", card_values(content.card))


def card_values(card: DataCard) -> dict[str, Any]:
    """What card.html.j2 shows."""
    labels = list(card.labels.items())
    return {
        "card": card,
        "largest": max((counts.share for _, counts in labels), default=1) or 1,
        "labels": labels[:LABEL_ROWS],
        "labels_left_out": max(0, len(labels) - LABEL_ROWS),
        "spreads": [
            ("characters", card.texts.characters),
            ("tokens", card.texts.tokens),
            ("width, pixels", card.images.width),
            ("height, pixels", card.images.height),
            ("bytes", card.images.bytes),
        ],
        "skipped": card.skipped_pictures[:20],
    }


def provenance(content: PageContent) -> Section:
    """Seeds, sources, versions and the recipe."""
    recipe = json.dumps(json.loads(content.recipe), indent=2, ensure_ascii=False)
    if len(recipe) > RECIPE_CHARACTERS:
        recipe = recipe[:RECIPE_CHARACTERS] + "\n... (all of it is in recipe.json)"
    return Section(
        "provenance", "Making", "How it was made", "provenance.html.j2", {"recipe": recipe}
    )


BY_TASK: Mapping[str, Sequence[Make]] = {
    "classification": (
        models, missing, labels, confusion, reliability, examples, curves,
    ),
}  # fmt: skip
"""The task of a bundle -> its sections; those for the data and the making follow them."""
