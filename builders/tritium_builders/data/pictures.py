"""Pictures of a manifest: hashed, and tried with the decoder that will serve them.

No more of them are in memory than are being read; results are small.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from tritium_builders.data.cache import cached_files, content_key
from tritium_builders.data.dataset import ImageFile
from tritium_builders.data.progress import track
from tritium_builders.servables import image_decoder
from tritium_client.contract import MAX_IMAGE_BYTES

AT_ONCE = 1024
"""Files whose work is queued at once."""

Given = TypeVar("Given")
Found = TypeVar("Found")


@dataclass(frozen=True)
class PictureFacts:
    """What a data card says of a picture."""

    format: str
    """As Pillow names it: JPEG, PNG, WEBP, GIF, BMP."""
    width: int
    """Pixels, before any rotation that EXIF asks for."""
    height: int
    bytes: int


def hash_pictures(paths: Sequence[Path]) -> dict[Path, ImageFile | str]:
    """Hash files.

    Args:
        paths: The files; one that is named several times is read once.

    Returns:
        For each file its hash, or why it cannot be used.
    """
    unique = list(dict.fromkeys(paths))
    return dict(zip(unique, _side_by_side(_hash, unique, "Reading pictures"), strict=True))


def check_pictures(
    pictures: Iterable[ImageFile], spec: Mapping[str, Any]
) -> dict[str, PictureFacts | str]:
    """Try pictures with the serving decoder, or read what an earlier run found.

    Args:
        pictures: From `hash_pictures`; equal ones are tried once.
        spec: `ImagePreprocessing.servable_spec()` of the encoder that will see them.

    Returns:
        By hash what the picture is, or why the decoder refuses it.
    """
    unique = {picture.sha256: picture for picture in pictures}
    hashes = sorted(unique)
    libraries = [f"{name} {importlib.metadata.version(name)}" for name in ("pillow", "numpy")]
    described = json.dumps([dict(spec), *libraries], sort_keys=True)
    key = content_key([described.encode(), *(sha256.encode() for sha256 in hashes)])

    def check_all() -> dict[str, bytes]:
        def check(sha256: str) -> PictureFacts | str:
            return _check(unique[sha256], dict(spec))

        found = zip(hashes, _side_by_side(check, hashes, "Trying pictures"), strict=True)
        document = {sha256: one if isinstance(one, str) else asdict(one) for sha256, one in found}
        return {"facts.json": json.dumps(document).encode()}

    kept = json.loads(cached_files("picture-facts", key, check_all)["facts.json"])
    return {
        sha256: one if isinstance(one, str) else PictureFacts(**one) for sha256, one in kept.items()
    }


def facts_of(content: bytes) -> PictureFacts:
    """What an encoded picture is, from its header.

    Args:
        content: A picture that can be decoded.
    """
    with Image.open(io.BytesIO(content), formats=image_decoder.FORMATS) as image:
        return PictureFacts(str(image.format), image.width, image.height, len(content))


def _hash(path: Path) -> ImageFile | str:
    try:
        size = path.stat().st_size
        if size > MAX_IMAGE_BYTES:
            return f"{size} bytes; at most {MAX_IMAGE_BYTES} are accepted"
        with path.open("rb") as file:
            return ImageFile(path, hashlib.file_digest(file, "sha256").hexdigest())
    except FileNotFoundError:
        return "there is no such file"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _check(picture: ImageFile, spec: dict[str, Any]) -> PictureFacts | str:
    content = picture.read()
    try:
        image_decoder.decode(content, spec)
    except ValueError as error:
        return str(error)
    return facts_of(content)


def _side_by_side(
    work: Callable[[Given], Found], todo: Sequence[Given], description: str
) -> Iterator[Found]:
    """Do the work on all cores; Pillow and hashlib release the GIL."""

    def results() -> Iterator[Found]:
        waiting = iter(todo)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            while some := list(islice(waiting, AT_ONCE)):
                yield from pool.map(work, some)

    return iter(track(results(), description, total=len(todo)))
