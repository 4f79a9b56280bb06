"""An explanation as one HTML file."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from tritium_builders.explain.records import Explanation
from tritium_builders.reports.templates import render
from tritium_builders.reports.thumbnails import as_address

FOR, AGAINST = (0, 104, 165), (196, 84, 0)
"""Blue raises the output, orange lowers it: two colours that nearly everybody tells apart."""
SIDE = 448
"""Pixels of the picture's longer side in the page."""
STRONGEST = 0.78
"""How much of the picture the colour of the strongest region covers."""
PALE = 0.55
"""How far the picture fades under its colours, which would mix with them."""
METHODS = {
    "integrated_gradients": "integrated gradients",
    "gradient": "gradient times distance from a blank item",
    "attention": "attention rollout",
    "occlusion": "occlusion",
}


@dataclass(frozen=True)
class Piece:
    """A piece of the text, with what it adds."""

    text: str
    attribution: float | None
    """None of what lies between tokens."""
    strength: float
    """0 to 1, by the strongest token."""


def render_explanation(explanation: Explanation, text: str, seen: npt.NDArray[np.uint8]) -> bytes:
    """Write an explanation as a page that needs nothing else.

    Args:
        explanation: What was found out.
        text: The text.
        seen: UINT8 [H, W, 3], the picture as the model sees it.

    Raises:
        ModuleNotFoundError: when jinja2 is not installed.
    """
    ranked = sorted(
        (token for token in explanation.tokens if not token.special),
        key=lambda token: -abs(token.attribution),
    )
    return render(
        "explanation.html.j2",
        explanation=explanation,
        method=METHODS[explanation.method],
        signed=explanation.method != "attention",
        pieces=pieces(explanation, text),
        tokens=ranked[:20],
        picture=_png_address(Image.fromarray(seen)),
        overlay=_png_address(overlaid(explanation, seen)) if explanation.regions else None,
        strongest=strongest_regions(explanation),
    ).encode()


def pieces(explanation: Explanation, text: str) -> list[Piece]:
    """Cut a text at its tokens; what was cut off as too long comes last, without attribution."""
    largest = max((abs(token.attribution) for token in explanation.tokens), default=0.0) or 1.0
    found, at = [], 0
    for token in explanation.tokens:
        if token.special or token.end <= at:
            continue
        if token.start > at:
            found.append(Piece(text[at : token.start], None, 0.0))
        strength = abs(token.attribution) / largest
        start = max(token.start, at)
        found.append(Piece(text[start : token.end], token.attribution, strength))
        at = token.end
    if at < len(text):
        found.append(Piece(text[at:], None, 0.0))
    return found


def overlaid(explanation: Explanation, seen: npt.NDArray[np.uint8]) -> Image.Image:
    """The picture in pale grey, coloured where regions add something.

    Args:
        explanation: With regions.
        seen: UINT8 [H, W, 3].
    """
    grid = np.array(explanation.regions)
    strength = np.abs(grid) / (np.abs(grid).max() or 1.0)
    colours = np.where(grid[..., None] >= 0, FOR, AGAINST).astype(np.uint8)
    # Colour and strength are enlarged apart: mixed, both signs would meet in a grey.
    size = (seen.shape[1], seen.shape[0])
    colour = Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)
    alpha = Image.fromarray((255 * STRONGEST * strength).astype(np.uint8))
    grey = Image.fromarray(seen).convert("L").convert("RGB")
    pale = Image.blend(grey, Image.new("RGB", size, "white"), PALE)
    pale.paste(colour, mask=alpha.resize(size, Image.Resampling.BICUBIC))
    return pale


def strongest_regions(explanation: Explanation, count: int = 5) -> list[tuple[str, float]]:
    """The regions that add most, by their place, for those who do not see the picture."""
    grid = np.array(explanation.regions)
    if not grid.size:
        return []
    order = np.argsort(-np.abs(grid), axis=None)[:count]
    rows, columns = np.unravel_index(order, grid.shape)
    return [
        (f"row {row + 1}, column {column + 1} of {grid.shape[0]}", float(grid[row, column]))
        for row, column in zip(rows, columns, strict=True)
    ]


def _png_address(picture: Image.Image) -> str:
    scale = SIDE / max(picture.size)
    if scale < 1:
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=85)
    return as_address("image/webp", file.getvalue())
