"""Small pictures of every kind that a decoder meets."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image


def noise(width: int = 90, height: int = 60, seed: int = 0) -> npt.NDArray[np.uint8]:
    """A smooth random picture, UINT8 [height, width, 3]: resampling filters differ on it."""
    values = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Encode a picture."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int = 90, height: int = 60, seed: int = 0) -> bytes:
    """An RGB PNG."""
    return encode(Image.fromarray(noise(width, height, seed)), "PNG")


def jpeg(width: int = 90, height: int = 60, seed: int = 0, orientation: int = 1) -> bytes:
    """A JPEG, with an EXIF orientation (1 to 8)."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(Image.fromarray(noise(width, height, seed)), "JPEG", exif=exif, quality=95)


def huge_png_header(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few bytes of data do not have."""
    small = png(4, 4)
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return small[:16] + header + checksum + small[33:]
