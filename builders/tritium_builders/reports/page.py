"""A report's page: from a bundle to one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from tritium_builders.bundle import SAMPLES, read_manifest
from tritium_builders.data.card import DataCard
from tritium_builders.errors import BundleError
from tritium_builders.reports.content import PageContent
from tritium_builders.reports.sections import card_values, sections_of, tiles_of
from tritium_builders.reports.templates import render
from tritium_builders.samples import read_samples
from tritium_builders.training.report import TrainingReport
from tritium_builders.training.rounds.record import RoundRecord
from tritium_builders.training.run import DATA_CARD, RECIPE, REPORT, ROUND
from tritium_builders.training.task_report import TaskReport


def render_page(content: PageContent) -> bytes:
    """Write the page; the same content gives the same bytes.

    Args:
        content: From a training, or from `read_content`.

    Raises:
        ModuleNotFoundError: when matplotlib or jinja2 is not installed.
    """
    values = {
        "content": content,
        "report": content.report,
        "sections": sections_of(content),
        "tiles": tiles_of(content),
    }
    return render("report.html.j2", **values).encode()


def render_card_page(card: DataCard) -> bytes:
    """Write a data card as a page of its own.

    Raises:
        ModuleNotFoundError: when jinja2 is not installed.
    """
    return render("card_page.html.j2", v=card_values(card)).encode()


def read_content(folder: Path) -> PageContent:
    """Read what a bundle keeps for its page.

    Args:
        folder: The bundle's.

    Raises:
        BundleError: naming the file and the fix; a bundle of somebody's own modules has no report.
    """
    manifest = read_manifest(folder)
    card = _parse(folder, DATA_CARD, DataCard) if (folder / DATA_CARD).exists() else None
    continued = _parse(folder, ROUND, RoundRecord) if (folder / ROUND).exists() else None
    kind: type[TrainingReport | TaskReport] = TaskReport
    if manifest.task == "classification":
        kind = TrainingReport
    validation = read_samples(folder / SAMPLES, "validation")
    return PageContent(
        report=_parse(folder, REPORT, kind),
        labels=manifest.labels,
        sources=manifest.sources,
        recipe=_read(folder, RECIPE).decode(),
        pictures={sample.id: sample.image for sample in validation},
        card=card,
        continued=continued,
    )


Model = TypeVar("Model", bound=BaseModel)


def _parse(folder: Path, name: str, kind: type[Model]) -> Model:
    try:
        return kind.model_validate_json(_read(folder, name))
    except ValidationError as error:
        first = error.errors()[0]
        raise BundleError(
            file=name,
            field=".".join(str(part) for part in first["loc"]) or None,
            problem=first["msg"],
            fix="train the bundle again with this version",
        ) from error


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise BundleError(
            file=name,
            problem=f"cannot be read ({error.strerror})",
            fix="give a bundle that `tritium train` wrote: only those hold a report",
        ) from error
