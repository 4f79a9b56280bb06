"""What a pretraining says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium_builders.training.records import Record

if TYPE_CHECKING:
    from rich.console import RenderableType

REPORT = "pretraining.json"
"""Beside the encoders."""


class PretrainingReport(Record):
    """The content of pretraining.json. Figures are of the validation items."""

    objective: str
    adapted: dict[str, str]
    """Modality -> where its encoder came from."""
    licences: dict[str, str]
    """Modality -> of the weights that it started from."""
    data: str
    data_licence: str
    items: int
    """Trained on."""
    validation: int
    """Watched to stop in time."""
    held_out: int
    """Not looked at."""
    fold: int | None
    """The one that is held out; None where the data gives its own splits."""
    seed: int
    best_epoch: int
    losses: list[float]
    """After each epoch; the lowest one's weights are kept."""
    loss_before: float
    figures_before: dict[str, float]
    """0 to 1, with the encoder as it came and a head that has learned nothing."""
    figures_after: dict[str, float]

    def to_json(self) -> bytes:
        """Write pretraining.json, the same bytes for the same figures."""
        return (self.model_dump_json(indent=2) + "\n").encode()


def render_pretraining(report: PretrainingReport) -> RenderableType:
    """Lay the report out for a terminal."""
    from rich.table import Table

    table = Table(
        title=f"{report.objective} on {report.items} items, {report.validation} watched, "
        f"{report.held_out} held out"
    )
    for heading in ("", "before", f"after epoch {report.best_epoch}"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("loss", f"{report.loss_before:.3f}", f"{min(report.losses):.3f}")
    for name, before in report.figures_before.items():
        table.add_row(name, f"{before:.1%}", f"{report.figures_after[name]:.1%}")
    return table
