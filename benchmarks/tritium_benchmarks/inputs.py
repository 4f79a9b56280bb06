"""Requests made from a workload: the same seed gives the same bytes, on every machine.

Pictures are cut from two photographs that scikit-learn ships (china.jpg and flower.jpg, 640x427,
CC BY 2.0, by danielbuechele and vultilion), so that JPEGs have the entropy of real ones; texts are
made of common English words, most of which are one token.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tritium_benchmarks.workload import PictureKind, Words, Workload
from tritium_client.contract import MODALITIES, Modality

_WORDS = """
red green blue small large old new bright dark round flat happy sad quiet loud fast slow warm cold
apple cat dog bird fish tree house boat car train river mountain street garden window table chair
book letter music child woman man friend teacher doctor city village market morning evening winter
summer with and under over near beside before after a the of in on at runs sits looks stands sleeps
sings carries holds opens closes waits plays works walks swims
"""
VOCABULARY = tuple(_WORDS.split())

GRAIN = 4.0
"""Standard deviation of the noise in enlarged pictures, of 255."""
JPEG_QUALITY = 85
"""Of most cameras' and web sites' pictures."""


@dataclass(frozen=True)
class Request:
    """One request; what is None is left out."""

    text: str | None
    image: bytes | None

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What it has."""
        given = {"text": self.text, "image": self.image}
        return tuple(modality for modality in MODALITIES if given[modality] is not None)


def common_modalities(requests: Sequence[Request]) -> tuple[Modality, ...] | None:
    """What all requests have, and no other has more; None where they differ."""
    kinds = {request.modalities for request in requests}
    return kinds.pop() if len(kinds) == 1 else None


def make_requests(workload: Workload, count: int) -> list[Request]:
    """The first `count` requests of a workload.

    Args:
        workload: What to make.
        count: How many; beyond `mix.distinct` they come again.

    Returns:
        Requests in the order in which they are to be sent.
    """
    random = np.random.default_rng(workload.seed)
    mix = workload.mix
    texts = _texts(workload.texts, mix.distinct, random)
    places = (np.arange(mix.distinct) + 0.5) / mix.distinct
    # As many of each as its share says, not as many as chance says: runs compare.
    places = random.permutation(places)
    with_picture = places >= mix.text_only
    pictures = iter(_pictures(workload.pictures, int(with_picture.sum()), random))
    distinct = [
        Request(
            None if mix.text_only <= place < mix.text_only + mix.image_only else text,
            next(pictures) if pictured else None,
        )
        for place, pictured, text in zip(places, with_picture, texts, strict=True)
    ]
    if mix.repeats == 0:
        return [distinct[index % len(distinct)] for index in range(count)]
    return _with_repeats(distinct, mix.repeats, count, random)


def _with_repeats(
    distinct: Sequence[Request], share: float, count: int, random: np.random.Generator
) -> list[Request]:
    """A share of the requests is one of those that came before."""
    made: list[Request] = []
    fresh = 0
    for _ in range(count):
        if made and random.random() < share:
            made.append(made[int(random.integers(len(made)))])
        else:
            made.append(distinct[fresh % len(distinct)])
            fresh += 1
    return made


def _texts(words: Words, count: int, random: np.random.Generator) -> list[str]:
    drawn = np.exp(random.normal(np.log(words.median), words.sigma, count)).round().astype(int)
    lengths = drawn.clip(words.least, words.most)
    return [" ".join(random.choice(VOCABULARY, length)) for length in lengths]


def _pictures(kinds: Sequence[PictureKind], count: int, random: np.random.Generator) -> list[bytes]:
    weights = np.array([kind.weight for kind in kinds])
    quota = np.floor(np.cumsum(weights / weights.sum()) * count + 1e-9).astype(int)
    chosen = np.searchsorted(quota, np.arange(count), side="right").clip(max=len(kinds) - 1)
    made = [_picture(kinds[index], random) for index in chosen]
    return [made[index] for index in random.permutation(count)]


def _picture(kind: PictureKind, random: np.random.Generator) -> bytes:
    from PIL import Image

    photograph = _photographs()[int(random.integers(2))]
    # A part of the photograph, mirrored by chance: every picture is another one.
    height, width = photograph.shape[:2]
    share = random.uniform(0.7, 1.0)
    part_height, part_width = int(height * share), int(width * share)
    top = int(random.integers(height - part_height + 1))
    left = int(random.integers(width - part_width + 1))
    part = photograph[top : top + part_height, left : left + part_width]
    if random.random() < 0.5:
        part = part[:, ::-1]
    size = (kind.width, kind.height)
    picture = Image.fromarray(np.ascontiguousarray(part)).resize(size, Image.Resampling.BICUBIC)
    if kind.width > part_width:
        # Enlarging makes no detail; a sensor's noise gives such a file the size of a real one.
        noise = random.normal(0, GRAIN, (kind.height, kind.width, 1))
        picture = Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))
    file = io.BytesIO()
    if kind.format == "jpeg":
        picture.save(file, "JPEG", quality=JPEG_QUALITY)
    else:
        picture.save(file, "PNG", compress_level=6)
    return file.getvalue()


@functools.cache
def _photographs() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    from sklearn.datasets import load_sample_image

    return load_sample_image("china.jpg"), load_sample_image("flower.jpg")
