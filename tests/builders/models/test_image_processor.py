"""Preprocessing read from Hugging Face files gives Hugging Face's pixels."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from tests.support.pictures import png
from tritium_builders.errors import RecipeError
from tritium_builders.models.image_processor import parse_image_preprocessing
from tritium_builders.servables.image_decoder import decode

NORMALISED = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (90, 61)])
@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessorPil(),
        ViTImageProcessorPil(size={"height": 64, "width": 96}, do_normalize=False),
        CLIPImageProcessorPil(),
        CLIPImageProcessorPil(size={"shortest_edge": 80}, crop_size={"height": 64, "width": 72}),
        ConvNextImageProcessorPil(size={"shortest_edge": 224}),
        ConvNextImageProcessorPil(size={"shortest_edge": 384}),
    ],
    ids=["vit", "vit-plain", "clip", "clip-crop", "convnext", "convnext-384"],
)
def test_pixels_equal_hugging_faces(processor: Any, size: tuple[int, int]) -> None:
    data = png(*size)
    parameters = parse_image_preprocessing(processor.to_dict())
    pixels = decode(data, parameters.servable_spec())
    ours = (pixels * parameters.rescale_factor - np.array(parameters.mean)) / parameters.std
    theirs = processor(Image.open(io.BytesIO(data)), return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(ours.transpose(2, 0, 1), theirs, atol=1e-5)


def test_old_files_with_one_number_for_the_size() -> None:
    vit = parse_image_preprocessing({"size": 224, **NORMALISED})
    assert (vit.height, vit.width, vit.resize) == (224, 224, "stretch")
    clip = parse_image_preprocessing(
        {"size": 256, "do_center_crop": True, "crop_size": 224, **NORMALISED}
    )
    assert (clip.height, clip.resize, clip.shortest_edge) == (224, "shortest_edge", 256)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**NORMALISED}, "x.json: size: is missing"),
        ({"size": 8, "resample": 9, **NORMALISED}, "resample: 9 is not supported"),
        ({"size": 8, "do_resize": False}, "do_resize: false is not supported"),
        ({"size": {"longest_edge": 8}, **NORMALISED}, r"size: \['longest_edge'\] is not supported"),
        ({"size": {"shortest_edge": 8}, **NORMALISED}, "needs do_center_crop"),
        ({"size": 8, "image_mean": [0, 0, 0]}, "image_std: is missing"),
        ({"size": 8, "image_mean": [0, 0, 0], "image_std": [1, 0, 1]}, "std must not be 0"),
        ({"size": "big", **NORMALISED}, "x.json"),
        ({"size": 8, "rescale_factor": "much", **NORMALISED}, "x.json"),
    ],
)
def test_what_is_not_supported_is_named(content: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_image_preprocessing(content, where="x.json")
