"""What a page is made of, and what its sections are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tritium_builders.bundle_schema import Sources
from tritium_builders.data.card import DataCard
from tritium_builders.training.report import TrainingReport
from tritium_builders.training.rounds.record import RoundRecord
from tritium_builders.training.task_report import TaskReport

LABEL_ROWS = 200
"""Of a table with a row for each label; the worst are shown where there are more."""


@dataclass(frozen=True)
class PageContent:
    """All that a report's page is made of."""

    report: TrainingReport | TaskReport
    labels: Sequence[str]
    """In the order of the probabilities."""
    sources: Sources
    recipe: str
    """As recipe.json holds it."""
    pictures: Mapping[str, bytes]
    """Sample id -> encoded picture, of the validation samples."""
    card: DataCard | None = None
    continued: RoundRecord | None = None
    """Where the bundle continues another."""


@dataclass(frozen=True)
class Tile:
    """One figure at the top of a page."""

    title: str
    value: str
    note: str


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
"""Makes a section, or None where there is nothing to show."""
