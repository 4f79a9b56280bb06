"""Pictures of the kinds that callers send and golden samples may not hold.

The parity gate decodes them with the servable that will be published and with the function that
training used.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

_ORIENTATION = 0x0112
"""EXIF tag; 6 means that the picture must be turned by 90 degrees clockwise."""


def probe_pictures() -> dict[str, bytes]:
    """Encode one picture of every kind: what it probes -> encoded picture.

    The picture has three different colours, sharp edges, and no symmetry, so that a swapped
    channel, a missing turn or another resampling filter changes its pixels.
    """
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[..., 0] = np.linspace(0, 255, 60, dtype=np.uint8)
    pixels[5:20, 10:30, 1] = 255
    pixels[::3, 40:, 2] = 180
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    transparent = picture.copy()
    transparent.putalpha(Image.fromarray(np.tile(np.arange(60, dtype=np.uint8) * 4, (40, 1))))
    wide = pixels[..., 1].astype(np.uint16) * 257
    return {
        "JPEG": _encode(picture, "JPEG"),
        "rotated JPEG (EXIF)": _encode(picture, "JPEG", exif=exif),
        "CMYK JPEG": _encode(picture.convert("CMYK"), "JPEG"),
        "grey JPEG": _encode(picture.convert("L"), "JPEG"),
        "transparent PNG": _encode(transparent, "PNG"),
        "palette PNG": _encode(picture.quantize(16), "PNG"),
        "16-bit PNG": _encode(Image.fromarray(wide), "PNG"),
        "WebP": _encode(picture, "WEBP", lossless=True),
        "GIF": _encode(picture, "GIF"),
        "BMP": _encode(picture, "BMP"),
    }


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
