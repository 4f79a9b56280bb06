"""An explanation as one PNG, for slides and documents."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tritium_builders.explain.page import AGAINST, FOR, METHODS, Piece, overlaid, pieces
from tritium_builders.explain.records import Explanation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT, DPI = 9.0, 5.2, 150
INK, QUIET, TEXT, IMAGE = "#14181d", "#58626d", "#b4500a", "#007a5a"
LINES = 3
"""Of the text, at most; the end of a longer one is left out."""


def draw_explanation(explanation: Explanation, text: str, seen: npt.NDArray[np.uint8]) -> bytes:
    """Draw an explanation.

    Args:
        explanation: What was found out.
        text: The text.
        seen: UINT8 [H, W, 3], the picture as the model sees it.

    Returns:
        A PNG of 1350 by 780 pixels.

    Raises:
        ModuleNotFoundError: when matplotlib is not installed.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {"font.size": 11, "text.color": INK, "text.parse_math": False}
    with mpl.rc_context(style):
        figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        _title(figure, explanation)
        _text(figure, pieces(explanation, text), explanation.method != "attention")
        places = ((0.04, 0.08, 0.27, 0.5), (0.335, 0.08, 0.27, 0.5))
        for place, caption, covered in zip(
            places, ("as the model sees it", "what each region adds"), (False, True), strict=True
        ):
            axes = figure.add_axes(place)
            coloured = covered and explanation.regions
            axes.imshow(overlaid(explanation, seen) if coloured else seen)
            axes.set_axis_off()
            axes.set_title(caption, fontsize=10, color=QUIET, loc="left")
        _modalities(figure.add_axes((0.74, 0.1, 0.22, 0.44)), explanation)
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _title(figure: Figure, explanation: Explanation) -> None:
    probability = explanation.is_probability
    output = f"{explanation.output:.1%}" if probability else f"{explanation.output:.3f}"
    figure.text(0.04, 0.92, f"{explanation.question}: {output}", fontsize=19, weight="bold")
    figure.text(
        0.04, 0.865, f"{explanation.app}, explained by {METHODS[explanation.method]}",
        fontsize=10, color=QUIET,
    )  # fmt: skip


def _text(figure: Figure, found: Sequence[Piece], signed: bool) -> None:
    """Lay the pieces out in lines, each on its colour."""
    canvas: Any = figure.canvas
    renderer = canvas.get_renderer()
    width = WIDTH * DPI
    left, line = 0.04, 0
    for piece in found:
        colour = FOR if (piece.attribution or 0.0) >= 0 else AGAINST
        own = figure.text(left, 0.75 - 0.075 * line, piece.text, fontsize=15)
        extent = own.get_window_extent(renderer)
        if extent.x1 > 0.96 * width and left > 0.04:
            line, left = line + 1, 0.04
            own.set_position((left, 0.75 - 0.075 * line))
            extent = own.get_window_extent(renderer)
        if line == LINES:
            own.set_text("…")
            return
        if piece.attribution is not None:
            shade = (*(part / 255 for part in colour), 0.6 * piece.strength)
            own.set_bbox({"facecolor": shade, "edgecolor": "none", "pad": 2.0})
        left = extent.x1 / width
    legend = "blue raises it, orange lowers it" if signed else "the stronger, the more looked at"
    figure.text(0.96, 0.865, legend, fontsize=10, color=QUIET, ha="right")


def _modalities(axes: Axes, explanation: Explanation) -> None:
    """Bars of the output with both modalities, and with each absent."""
    rows = [("both", explanation.output, "#0068a5")]
    for name, share, colour in (
        ("without image", explanation.image, TEXT),
        ("without text", explanation.text, IMAGE),
    ):
        if share.without is not None:
            rows.append((name, share.without, colour))
    places = range(len(rows))
    axes.barh(places, [value for _, value, _ in rows], 0.6, color=[row[2] for row in rows])
    for place, (_, value, _) in zip(places, rows, strict=True):
        axes.text(max(value, 0.0), place, f" {value:.2f}", va="center", fontsize=10)
    axes.set_yticks(places, [name for name, *_ in rows])
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.set_title("output with each modality absent", fontsize=10, color=QUIET, loc="right")
    for spine in axes.spines.values():
        spine.set_visible(False)
