"""What a training report says: its task's sections, and those that every report has.

A task brings its own sections; each is left out where there is nothing to show.
"""

from __future__ import annotations

import json
from typing import Any

from tritium_builders.data.card import DataCard
from tritium_builders.reports import single_label, tasks
from tritium_builders.reports.content import LABEL_ROWS, PageContent, Section, Tile
from tritium_builders.training.report import TrainingReport
from tritium_builders.training.rounds.record import remarks

RECIPE_CHARACTERS = 20_000


def sections_of(content: PageContent) -> list[Section]:
    """Everything that there is to say, in the order of the page."""
    classes = isinstance(content.report, TrainingReport)
    own = single_label.SECTIONS if classes else tasks.SECTIONS
    made = (make(content) for make in (round_before, *own, data, provenance))
    return [section for section in made if section is not None]


def tiles_of(content: PageContent) -> list[Tile]:
    """The figures at the top of the page."""
    if isinstance(content.report, TrainingReport):
        return single_label.tiles(content)
    return tasks.tiles(content)


def round_before(content: PageContent) -> Section | None:
    """The bundle that is continued, and both on the same items."""
    if content.continued is None:
        return None
    values = {"round": content.continued, "remarks": remarks(content.continued)}
    return Section("round", "Before", "Beside the bundle before", "round.html.j2", values)


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
