"""Drawings that stand in a page: SVG whose colours and letters are the page's own.

matplotlib writes colours into its SVG. Each is one of `Ink`, which no drawing needs otherwise, and
becomes the page's variable of that name: so one drawing suits light and dark pages.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from html import escape
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 4.6, 3.3
"""Inches: letters of 10 points are 10 pixels on a telephone, and 14 on a desk."""


class Ink(str, Enum):
    """A colour of the page (templates/page.css), by what matplotlib writes in its place."""

    TEXT_COLOUR = "#010101"
    QUIET = "#010102"
    LINE = "#010103"
    FUSION = "#010104"
    TEXT = "#010105"
    IMAGE = "#010106"
    FAINT = "#010107"

    @property
    def variable(self) -> str:
        """The page's name for it."""
        return f"var(--{self.name.lower().replace('_', '-')})"


@dataclass
class Drawing:
    """A figure that is being drawn, and the SVG that it became.

    Args:
        name: Letters and hyphens, unique in its page; in front of every id of the SVG.
        alt: What it shows, for people who do not see it.
    """

    name: str
    alt: str
    axes: Sequence[Axes] = ()
    svg: Markup = field(default_factory=Markup)


@contextmanager
def drawing(
    name: str, alt: str, *, columns: int = 1, height: float = HEIGHT, legend: bool = True
) -> Iterator[Drawing]:
    """Draw panels side by side; the SVG is there when the block has ended.

    Args:
        name: As of `Drawing`.
        alt: As of `Drawing`.
        columns: How many panels.
        height: Inches.
        legend: Whether lines are named under the panels.

    Raises:
        ModuleNotFoundError: when matplotlib is not installed.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_style()):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        drawn = Drawing(name, alt, list(figure.subplots(1, columns, squeeze=False)[0]))
        yield drawn
        handles, labels = drawn.axes[0].get_legend_handles_labels()
        if legend and handles:
            figure.legend(handles, labels, loc="outside lower left", ncols=2)
        file = io.StringIO()
        nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing, transparent=True)
        drawn.svg = _for_a_page(file.getvalue(), name, alt)


def _style() -> dict[Any, Any]:
    ink, quiet, line = Ink.TEXT_COLOUR.value, Ink.QUIET.value, Ink.LINE.value
    return {
        "svg.hashsalt": "tritium",  # the same figures give the same file
        "svg.fonttype": "none",  # letters stay letters: small, and in the page's own font
        "text.parse_math": False,  # a label may hold a dollar sign
        "font.size": 10,
        "text.color": ink,
        "axes.labelcolor": quiet,
        "axes.edgecolor": line,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.titlecolor": ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": line,
        "grid.linewidth": 0.8,
        "xtick.color": line,
        "ytick.color": line,
        "xtick.labelcolor": quiet,
        "ytick.labelcolor": quiet,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "lines.linewidth": 1.8,
    }


def _for_a_page(svg: str, name: str, alt: str) -> Markup:
    """Take what stands inside a page, under names and colours of the page."""
    inner = svg[svg.index("<svg") :]
    inner = re.sub(r"<style[^>]*>.*?</style>", "", inner, flags=re.S)  # would hold for all of it
    inner = re.sub(r"<!--.*?-->\s*", "", inner, flags=re.S)
    inner = re.sub(r'\bid="', f'id="{name}-', inner)
    inner = re.sub(r'href="#', f'href="#{name}-', inner)
    inner = inner.replace("url(#", f"url(#{name}-")
    inner = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--letters)", inner)
    for ink in Ink:
        inner = inner.replace(ink.value, ink.variable)
    size = re.search(r'viewBox="[^"]*"', inner)
    box = size.group() if size else ""
    opening = f'<svg class="drawing" role="img" aria-label="{escape(alt)}" {box}>'
    drawn = re.sub(r"<svg[^>]*>", lambda _: opening, inner, count=1)
    return Markup(drawn)  # noqa: S704 # nosec B704 # ours
