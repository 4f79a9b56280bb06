"""From a text and a picture to tensors, as somebody writes it on the first day.

Pillow, tokenizers, padding to the longest text: what every plain baseline does.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from tritium_builders.bundle import TOKENIZER, read_manifest
from tritium_builders.bundle_schema import BundleManifest
from tritium_builders.preprocessing import ImagePreprocessing
from tritium_builders.servables import image_decoder, text_tokenizer

Pixels = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class App:
    """A bundle, as far as a service reads it: checking all of it would take longer than serving."""

    folder: Path
    manifest: BundleManifest

    @classmethod
    def load(cls, folder: Path) -> App:
        """Open a bundle."""
        return cls(folder, read_manifest(folder))


class Model(Protocol):
    """What a service calls."""

    def __call__(self, texts: Sequence[str], images: Sequence[bytes]) -> Probabilities:
        """Answer pairs of a text and an encoded picture with FP32 [pairs, labels]."""


class Reader:
    """Text and picture to tensors, as a first service does it.

    Args:
        app: Whose tokenizer and preprocessing.
    """

    def __init__(self, app: App) -> None:
        manifest = app.manifest
        self._image = manifest.image
        self._tokenizer = text_tokenizer.load_tokenizer(
            app.folder / TOKENIZER, manifest.text.servable_spec()
        )
        self._tokenizer.enable_padding(
            direction=manifest.text.padding_side, pad_id=manifest.text.pad_id
        )

    def tokens(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Ids and mask, INT64 [texts, longest]."""
        encoded = self._tokenizer.encode_batch(list(texts))
        ids = np.array([text.ids for text in encoded], np.int64)
        return ids, np.array([text.attention_mask for text in encoded], np.int64)

    def pixels(self, images: Sequence[bytes]) -> Pixels:
        """UINT8 [images, height, width, 3], RGB."""
        return np.stack([decode_with_pillow(image, self._image) for image in images])


def decode_with_pillow(data: bytes, preprocessing: ImagePreprocessing) -> Pixels:
    """Decode one picture the way tutorials do.

    Returns:
        UINT8 [height, width, 3], RGB.
    """
    image: Image.Image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if "A" in image.getbands() or "transparency" in image.info:
        over = image.convert("RGBA")
        canvas = Image.new("RGBA", over.size, (*preprocessing.background, 255))
        image = Image.alpha_composite(canvas, over)
    image = image.convert("RGB")
    height, width = preprocessing.height, preprocessing.width
    resample = image_decoder.RESAMPLING[preprocessing.resample]
    if preprocessing.resize == "stretch":
        return np.asarray(image.resize((width, height), resample))
    edge = preprocessing.shortest_edge or max(height, width)
    scale = edge / min(image.size)
    across, down = (max(edge, int(side * scale)) for side in image.size)
    left, top = (across - width) // 2, (down - height) // 2
    box = (left, top, left + width, top + height)
    return np.asarray(image.resize((across, down), resample).crop(box))
