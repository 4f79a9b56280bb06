"""Pictures made smaller before they travel, for callers who ask for it."""

from __future__ import annotations

import io

from tritium_client.contract import MAX_IMAGE_PIXELS

# Modes that PNG does not hold, and what keeps their colours. The server does the same.
PNG_MODE = {
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "LAB": "RGB",
    "HSV": "RGB",
    "RGBX": "RGB",
    "RGBa": "RGBA",
    "La": "LA",
    "PA": "RGBA",
}
JPEG_QUALITY = 95
"""With full chroma: what scaling loses is far more than what this loses."""


def scale_down(data: bytes, max_side: int) -> bytes:
    """Scale an encoded picture down until neither side has more than `max_side` pixels.

    A JPEG stays a JPEG, everything else becomes PNG; a picture that is small enough is returned as
    it is.

    Args:
        data: An encoded picture.
        max_side: At least 1.

    Raises:
        ValueError: Pillow is not installed, or cannot read the picture.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ValueError("max_side needs Pillow: pip install pillow") from error
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if max(picture.size) <= max_side:
                return data
            if picture.width * picture.height > MAX_IMAGE_PIXELS:
                raise ValueError(f"{picture.width}x{picture.height} pixels are too many")
            kind = "JPEG" if picture.format == "JPEG" else "PNG"
            # JPEG decodes at a half, a quarter or an eighth of its size for a fraction of the time;
            # twice the wanted size keeps the filter below honest.
            picture.draft(None, (2 * max_side, 2 * max_side))
            upright = ImageOps.exif_transpose(picture)
            if upright.mode in {"1", "P"}:
                upright = upright.convert("RGBA" if "transparency" in upright.info else "RGB")
            upright.thumbnail((max_side, max_side), Image.Resampling.BICUBIC, reducing_gap=None)
            return _encode(upright, kind)
    except Exception as error:
        # Pillow's codecs answer damaged data with almost any exception.
        raise ValueError(f"the image cannot be scaled down ({error})") from error


def _encode(picture: object, kind: str) -> bytes:
    from PIL import Image

    assert isinstance(picture, Image.Image)  # noqa: S101 - for the type checker
    buffer = io.BytesIO()
    if kind == "JPEG":
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        mode = PNG_MODE.get(picture.mode)
        upright = picture if mode is None else picture.convert(mode)
        upright.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
