"""From what callers give to the bytes that travel; refuses before anything is sent."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Union

import numpy as np
import numpy.typing as npt

from tritium_client._arguments import check_route_key
from tritium_client._exceptions import InvalidInput
from tritium_client._scaling import PNG_MODE, scale_down
from tritium_client.contract import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, MAX_TEXT_BYTES, Modality

if TYPE_CHECKING:
    from PIL import Image


class Readable(Protocol):
    """A file that was opened for reading bytes."""

    def read(self, size: int, /) -> bytes:
        """Read at most `size` bytes."""


TextInput: TypeAlias = str | bytes
"""A text; bytes are UTF-8."""

ImageInput: TypeAlias = Union[
    str,
    "os.PathLike[str]",
    bytes,
    bytearray,
    memoryview,
    Readable,
    "Image.Image",
    npt.NDArray[np.uint8],
]
"""A picture: a path, an encoded picture's bytes, a file, a Pillow image, or RGB pixels."""

Item: TypeAlias = Union[Mapping[str, Any], "tuple[TextInput | None, ImageInput | None]"]
"""One of many: a mapping with `text`, `image` or both, or the pair (text, image). A mapping may
have a `route_key`, too."""

Unpacked: TypeAlias = tuple[TextInput | None, ImageInput | None, str | None]
"""Text, image and route key of one item."""


def unpack_item(item: Item, index: int) -> Unpacked:
    """Take text, image and route key out of one of many items.

    Raises:
        InvalidInput: with stage `client`, when it is neither a mapping nor a pair, or a mapping
            with other names, or its route key is none.
    """
    if isinstance(item, Mapping):
        unknown = sorted(set(map(str, item)) - {"text", "image", "route_key"})
        if unknown:
            raise InvalidInput("client", index, f"an item has text and image, not {unknown[0]!r}")
        try:
            check_route_key(item.get("route_key"))
        except ValueError as error:
            raise InvalidInput("client", index, str(error)) from error
        return item.get("text"), item.get("image"), item.get("route_key")
    if isinstance(item, tuple) and len(item) == 2:
        return (*item, None)
    raise InvalidInput(
        "client",
        index,
        f"an item is a mapping with text and image or a pair, not {type(item).__name__}",
    )


def inputs_to_bytes(
    text: TextInput | None,
    image: ImageInput | None,
    *,
    index: int = 0,
    max_side: int | None = None,
) -> dict[Modality, bytes]:
    """Turn one item into the bytes of the modalities that it has.

    Args:
        text: A text of 1 to 65,536 bytes in UTF-8, or None.
        image: A picture of at most 20 MiB encoded and 64 million pixels, or None.
        index: The item's index within its request, for the error.
        max_side: Scale a larger picture down to at most this many pixels a side; None for never.

    Returns:
        Modality -> bytes, for each modality that was given.

    Raises:
        InvalidInput: with stage `client`, saying what is wrong.
        ValueError: `max_side` is below 1.
    """
    if max_side is not None and max_side < 1:
        raise ValueError(f"max_side must be at least 1: {max_side}")
    try:
        items: dict[Modality, bytes] = {}
        if text is not None:
            items["text"] = text_to_bytes(text)
        if image is not None:
            data = image_to_bytes(image)
            items["image"] = data if max_side is None else scale_down(data, max_side)
        if not items:
            raise ValueError("nothing was given; give a text, an image, or both")
    except (TypeError, ValueError, OSError) as error:
        raise InvalidInput("client", index, str(error)) from error
    return items


def text_to_bytes(text: TextInput) -> bytes:
    """Encode a text as UTF-8.

    Raises:
        TypeError: it is neither str nor bytes.
        ValueError: what is wrong with the text.
    """
    if not isinstance(text, str | bytes):
        raise TypeError(f"text must be str or bytes, not {type(text).__name__}")
    if len(text) > MAX_TEXT_BYTES:
        raise ValueError(f"the text has {len(text):,} characters; {_AT_MOST_TEXT}")
    try:
        data, words = (text, text.decode()) if isinstance(text, bytes) else (text.encode(), text)
    except UnicodeDecodeError as error:
        raise ValueError(f"the text is not valid UTF-8 at byte {error.start}") from error
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text has half a surrogate pair at character {error.start}"
        ) from error
    if len(data) > MAX_TEXT_BYTES:
        raise ValueError(f"the text has {len(data):,} bytes in UTF-8; {_AT_MOST_TEXT}")
    if not words.strip():
        raise ValueError("the text is empty; to leave the text out, pass text=None")
    return data


def image_to_bytes(image: ImageInput) -> bytes:
    """Read or encode a picture; arrays and Pillow images are encoded as PNG, which is lossless.

    Raises:
        TypeError: it is nothing that a picture can be given as.
        ValueError: what is wrong with the picture.
        OSError: when a file cannot be read.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return _checked_size(bytes(image))
    if isinstance(image, str | os.PathLike):
        return _read_path(image)
    if isinstance(image, np.ndarray):
        return _checked_size(_encode_array(image))
    # Whoever holds a Pillow image has loaded Pillow; nobody else should pay for it.
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(image, pillow.Image):
        return _checked_size(_encode_pillow(image))
    if hasattr(image, "read"):
        return _read_file(image)
    raise TypeError(
        "image must be a path, bytes, a binary file, a Pillow image or a uint8 array, "
        f"not {type(image).__name__}"
    )


_AT_MOST_TEXT = f"at most {MAX_TEXT_BYTES:,} bytes are accepted"


def _checked_size(data: bytes) -> bytes:
    if not data:
        raise ValueError("the image is empty (0 bytes)")
    if len(data) > MAX_IMAGE_BYTES:
        raise ValueError(
            f"the image has {len(data):,} bytes; at most {MAX_IMAGE_BYTES:,} are accepted"
        )
    return data


def _read_path(path: str | os.PathLike[str]) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return _read_file(file)
    except OSError as error:
        hint = " (a str is taken as a path)" if isinstance(path, str) else ""
        raise OSError(f"cannot read the image {path!s}: {error.strerror}{hint}") from error


def _read_file(file: Readable) -> bytes:
    data: Any = file.read(MAX_IMAGE_BYTES + 1)
    if not isinstance(data, bytes):
        raise TypeError(
            f"the image file gave {type(data).__name__}; open it in binary mode: open(path, 'rb')"
        )
    if len(data) > MAX_IMAGE_BYTES:
        raise ValueError(f"the image file has more than {MAX_IMAGE_BYTES:,} bytes")
    return _checked_size(data)


def _encode_array(pixels: npt.NDArray[Any]) -> bytes:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            "an image array must be uint8 [height, width, 3], RGB; "
            f"this one is {pixels.dtype} {list(pixels.shape)}"
        )
    if pixels.size == 0:
        raise ValueError(f"the image array has no pixels (shape {list(pixels.shape)})")
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError(
            "an image array needs Pillow to be encoded: pip install pillow, or pass encoded bytes"
        ) from error
    _check_pixels(pixels.shape[1], pixels.shape[0])
    return _png(Image.fromarray(np.ascontiguousarray(pixels)))


def _encode_pillow(image: Image.Image) -> bytes:
    from PIL import ImageOps

    _check_pixels(*image.size)
    if image.mode == "F":
        raise ValueError("a Pillow image of mode F has no lossless encoding; convert it to RGB")
    try:
        # The PNG below carries no EXIF block, and the file itself would have been turned upright.
        upright = ImageOps.exif_transpose(image)
        mode = PNG_MODE.get(upright.mode)
        return _png(upright if mode is None else upright.convert(mode))
    except Exception as error:
        # Pillow reads lazily, and its codecs answer damaged data with almost any exception.
        raise ValueError(f"the Pillow image cannot be encoded ({error})") from error


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_IMAGE_PIXELS:
        raise ValueError(
            f"{width}x{height} is {width * height:,} pixels; "
            f"at most {MAX_IMAGE_PIXELS:,} are accepted"
        )


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)  # a quarter of the default's time
    return buffer.getvalue()
