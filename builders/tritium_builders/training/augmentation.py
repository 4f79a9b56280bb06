"""Training items that differ from epoch to epoch: crops, mirrors, colours, holes, missing words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

from tritium_builders.training.recipe import AugmentationTable

Pixels = npt.NDArray[np.uint8]

ASPECTS = (3 / 4, 4 / 3)
"""Of crops. Source: Szegedy et al. 2015, section 6."""
ATTEMPTS = 10
"""After so many crops that do not fit, the whole picture is taken."""
ERASED_AREA = (0.02, 0.33)
ERASED_ASPECT = (0.3, 1 / 0.3)
"""Source: Zhong et al. 2020, section 4.2 (s_l, s_h, r_1, r_2)."""


def augment_pixels(pixels: Pixels, table: AugmentationTable, random: np.random.Generator) -> Pixels:
    """Change a picture as the recipe allows it.

    Args:
        pixels: UINT8 [H, W, 3], as decoded for the encoder.
        table: What is done.
        random: Decides how.

    Returns:
        UINT8 [H, W, 3], a new array.
    """
    picture = Image.fromarray(pixels)
    if table.random_resized_crop < 1:
        picture = _crop(picture, table.random_resized_crop, random)
    if table.flip and random.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if table.colour_jitter > 0:
        picture = _jitter(picture, table.colour_jitter, random)
    changed = np.array(picture)
    if random.random() < table.random_erasing:
        _erase(changed, random)
    return changed


def drop_tokens(
    ids: Sequence[int], probability: float, special: frozenset[int], random: np.random.Generator
) -> list[int]:
    """Leave tokens out, but never special ones and never all of the others.

    Args:
        ids: Token ids of one text, without padding.
        probability: That a token is left out.
        special: Ids that stay, such as [CLS] and [SEP].
        random: Decides which.
    """
    words = [place for place, token in enumerate(ids) if token not in special]
    dropped = {place for place in words if random.random() < probability}
    if words and len(dropped) == len(words):
        dropped.remove(words[int(random.integers(len(words)))])
    return [token for place, token in enumerate(ids) if place not in dropped]


def _crop(picture: Image.Image, least: float, random: np.random.Generator) -> Image.Image:
    width, height = picture.size
    for _ in range(ATTEMPTS):
        area = width * height * random.uniform(least, 1)
        aspect = math.exp(random.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
        own_width, own_height = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if own_width <= width and own_height <= height:
            left = random.uniform(0, width - own_width)
            top = random.uniform(0, height - own_height)
            box = (left, top, left + own_width, top + own_height)
            return picture.resize(picture.size, Image.Resampling.BICUBIC, box=box)
    return picture


def _jitter(picture: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    kinds: list[Callable[[Image.Image], ImageEnhance._Enhance]] = [
        ImageEnhance.Brightness,
        ImageEnhance.Contrast,
        ImageEnhance.Color,
    ]
    for number in random.permutation(len(kinds)):
        picture = kinds[number](picture).enhance(random.uniform(1 - strength, 1 + strength))
    return picture


def _erase(pixels: Pixels, random: np.random.Generator) -> None:
    height, width, _ = pixels.shape
    for _ in range(ATTEMPTS):
        area = height * width * random.uniform(*ERASED_AREA)
        lowest, highest = (math.log(bound) for bound in ERASED_ASPECT)
        aspect = math.exp(random.uniform(lowest, highest))
        rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < rows <= height and 0 < columns <= width:
            top = int(random.integers(height - rows + 1))
            left = int(random.integers(width - columns + 1))
            noise = random.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
            pixels[top : top + rows, left : left + columns] = noise
            return
