"""Hugging Face's preprocessor_config.json -> `ImagePreprocessing`.

Read here rather than by transformers, whose processors need torchvision and would be a second
implementation of what the image_decoder servable does.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import ValidationError

from tritium_builders.errors import RecipeError
from tritium_builders.models.huggingface import find_file
from tritium_builders.preprocessing import ImagePreprocessing

FILE = "preprocessor_config.json"
_RESAMPLE: dict[int, Literal["nearest", "bilinear", "bicubic", "lanczos"]] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
}
"""Pillow's numbers."""
_CROPS_BY_PERCENT = ("ConvNext", "ConvNeXT", "ResNet")
"""ConvNeXt's processor, which ResNet uses too: scales to size / crop_pct, then crops."""


def load_image_preprocessing(source: str, name: str) -> ImagePreprocessing:
    """Find and read the preprocessing of a Hugging Face image model.

    Args:
        source: How the user named it, for messages.
        name: A folder or a hub id.

    Raises:
        RecipeError: naming the field that is missing or not supported.
    """
    path = find_file(name, FILE)
    if path is None:
        raise RecipeError(f"{source}: {FILE}: cannot be found; an image encoder's folder needs it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{source}: {FILE}: cannot be read: {error}; mend the file") from error
    return parse_image_preprocessing(content, where=f"{source}: {FILE}")


def parse_image_preprocessing(content: dict[str, Any], *, where: str = FILE) -> ImagePreprocessing:
    """Read the content of a preprocessor_config.json.

    Args:
        content: The JSON object.
        where: The file, for messages.

    Raises:
        RecipeError: naming the field that is missing or not supported.

    Source: transformers' image_processing_{vit,clip,convnext}.py.
    """
    try:
        return ImagePreprocessing(
            **_geometry(content),
            resample=_resample(content),
            **_normalisation(content),
        )
    except _FieldError as error:
        raise RecipeError(f"{where}: {error}") from None
    except (ValidationError, TypeError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise RecipeError(f"{where}: {reason}; give another encoder or mend the file") from error


class _FieldError(Exception):
    """A field and what is wrong with it."""


def _geometry(content: dict[str, Any]) -> dict[str, Any]:
    if not content.get("do_resize", True):
        raise _FieldError("do_resize: false is not supported; pictures come in all sizes")
    if "size" not in content:
        raise _FieldError("size: is missing; add the size that the encoder takes")
    size = content["size"]
    processor = str(content.get("image_processor_type", content.get("feature_extractor_type", "")))
    crops = bool(content.get("do_center_crop", False))
    if processor.startswith(_CROPS_BY_PERCENT):
        return _crop_by_percent(content, size)
    if isinstance(size, int):
        size = {"shortest_edge": size} if crops else {"height": size, "width": size}
    if "shortest_edge" in size:
        if not crops:
            raise _FieldError("size.shortest_edge: needs do_center_crop = true for a fixed size")
        crop = content.get("crop_size", size["shortest_edge"])
        return {
            "size": _square(crop),
            "resize": "shortest_edge",
            "shortest_edge": size["shortest_edge"],
        }
    if {"height", "width"} <= set(size):
        target = _square(size)
        if crops and _square(content.get("crop_size", size)) != target:
            raise _FieldError("crop_size: a crop after stretching is not supported")
        return {"size": target, "resize": "stretch"}
    raise _FieldError(f"size: {sorted(size)} is not supported; give height and width")


def _crop_by_percent(content: dict[str, Any], size: Any) -> dict[str, Any]:
    edge = size if isinstance(size, int) else size.get("shortest_edge")
    if edge is None:
        raise _FieldError("size.shortest_edge: is missing")
    if edge >= 384:  # the processor's own rule: from here on it stretches and does not crop
        return {"size": edge, "resize": "stretch"}
    scaled = int(edge / content.get("crop_pct", 224 / 256))
    return {"size": edge, "resize": "shortest_edge", "shortest_edge": scaled}


def _square(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    return int(size["height"]), int(size["width"])


def _resample(content: dict[str, Any]) -> Literal["nearest", "bilinear", "bicubic", "lanczos"]:
    number = content.get("resample", 2)
    if number not in _RESAMPLE:
        raise _FieldError(f"resample: {number} is not supported; use one of {sorted(_RESAMPLE)}")
    return _RESAMPLE[number]


def _normalisation(content: dict[str, Any]) -> dict[str, Any]:
    rescale = float(content.get("rescale_factor", 1 / 255))
    values: dict[str, Any] = {
        "rescale_factor": rescale if content.get("do_rescale", True) else 1.0,
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
    }
    if content.get("do_normalize", True):
        for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
            if theirs not in content:
                raise _FieldError(f"{theirs}: is missing; add the three values for R, G and B")
            values[ours] = tuple(content[theirs])
    return values
