"""Small pictures inside a page."""

from __future__ import annotations

import base64
import io

SIZE = 160
"""Pixels of the longer side: twice what a page shows, for screens with small pixels."""
MAX_BYTES = 12 * 1024
MAX_PIXELS = 64_000_000
QUALITIES = (80, 60, 40, 20)


def thumbnail(picture: bytes) -> str | None:
    """Make a `data:` address of a picture, at most 12 KB of WebP.

    Args:
        picture: An encoded picture (JPEG, PNG, WebP, GIF, BMP).

    Returns:
        None where it cannot be decoded: a page is written all the same.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(picture)) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                return None
            opened.draft("RGB", (SIZE, SIZE))
            small = ImageOps.exif_transpose(opened).convert("RGBA")
        small.thumbnail((SIZE, SIZE))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None  # what Pillow raises for files that are no pictures, or broken ones
    for quality in QUALITIES:
        file = io.BytesIO()
        small.save(file, "WEBP", quality=quality, method=4)
        if file.tell() <= MAX_BYTES:
            return as_address("image/webp", file.getvalue())
    return None


def as_address(media_type: str, content: bytes) -> str:
    """Write a file as an address that holds all of it."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
