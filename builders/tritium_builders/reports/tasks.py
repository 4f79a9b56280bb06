"""The sections of a model that gives no single label: several, scores, tags, or an embedding."""

from __future__ import annotations

from tritium_builders.reports import plots
from tritium_builders.reports.content import LABEL_ROWS, Make, PageContent, Section, Tile
from tritium_builders.reports.drawing import Ink
from tritium_builders.training.task_report import TaskReport

DRAWN = 6
"""Scores that are drawn; the table has all."""
TILES = 3
"""Figures beside the main one."""


def tiles(content: PageContent) -> list[Tile]:
    """The figures at the top of the page."""
    report = _report(content)
    seeds = len(report.fusion.by_seed)
    main = Tile(
        report.measure, f"{report.fusion.mean:.3f}",
        f"mean of {seeds} seed{'' if seeds == 1 else 's'}",
    )  # fmt: skip
    more = list(report.figures.items())[:TILES]
    return [main, *(Tile(name, f"{one.mean:.4g}", "fusion, mean of seeds") for name, one in more)]


def models(content: PageContent) -> Section:
    """The task's measure, of fusion and of the models with one modality; and other figures."""
    report = _report(content)
    rows = [
        (name, figure, ink)
        for name, figure, ink in (
            ("fusion", report.fusion, Ink.FUSION),
            ("text-only model", report.text_model, Ink.TEXT),
            ("image-only model", report.image_model, Ink.IMAGE),
            ("fusion, image absent", report.fusion_without_image, Ink.TEXT),
            ("fusion, text absent", report.fusion_without_text, Ink.IMAGE),
        )
        if figure is not None
    ]
    values = {
        "rows": rows,
        "plot": plots.compared(rows, report.measure),
        "seeds": list(report.fusion.by_seed),
        "measure": report.measure,
        "figures": report.figures,
    }
    return Section("models", "Models", "Text, image, and both", "measures.html.j2", values)


def thresholds(content: PageContent) -> Section | None:
    """Each of several labels on its own, with its threshold."""
    rows = list(_report(content).by_label.items())
    if not rows:
        return None
    left_out = max(0, len(rows) - LABEL_ROWS)
    if left_out:
        rows = sorted(rows, key=lambda row: (row[1].f1, row[0]))[:LABEL_ROWS]
    values = {"rows": rows, "left_out": left_out}
    return Section("labels", "Labels", "Label by label", "thresholds.html.j2", values)


def scores(content: PageContent) -> Section | None:
    """Each score on its own: predicted beside right."""
    fits = _report(content).by_score
    if not fits:
        return None
    drawn = [
        plots.predicted(name, number, fit.pairs)
        for number, (name, fit) in enumerate(list(fits.items())[:DRAWN])
    ]
    values = {"fits": fits, "plots": drawn}
    return Section("scores", "Scores", "Predicted and right", "scores.html.j2", values)


def curves(content: PageContent) -> Section | None:
    """How the heads learned."""
    report = _report(content)
    by_kind = {kind: own for kind, own in report.curves.items() if own}
    if "fusion" not in by_kind:
        return None
    values = {
        "by_kind": by_kind,
        "plot": plots.learning(by_kind["fusion"], report.measure),
        "measure": report.measure,
    }
    return Section("curves", "Learning", "How it learned", "curves.html.j2", values)


def _report(content: PageContent) -> TaskReport:
    assert isinstance(content.report, TaskReport)  # noqa: S101 - sections.py chose by it
    return content.report


SECTIONS: tuple[Make, ...] = (models, thresholds, scores, curves)
