"""Encoders of the usual shapes with random weights, exported as a bundle's would be."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTModel,
)

from tests.support.models import tokenizer
from tritium_builders import ImagePreprocessing, TextPreprocessing
from tritium_builders.configs import ComponentGraph, TensorSpec
from tritium_builders.export import export_image_encoder, export_text_encoder
from tritium_builders.models import HuggingFaceImageEncoder, HuggingFaceTextEncoder
from tritium_builders.reference import FusionModel
from tritium_client import contract

FULL = bool(os.environ.get("TRITIUM_TEST_FULL"))
LAYERS = 12 if FULL else 1
"""What a parser and a builder can refuse is in every layer alike; all 12 take many minutes."""
VOCABULARY = 2000
LENGTHS = (16, 32)
TEXTS = ("bert", "clip_text") if FULL else ("bert",)
IMAGES = ("vit", "resnet50", "clip_vision") if FULL else ("vit", "resnet50")
"""CLIP's towers are transformers, too: what they add to BERT and ViT is in `make test-full`."""


@dataclass(frozen=True)
class Tower:
    """One exported encoder with inputs to calibrate on."""

    graph: Path
    component: ComponentGraph
    samples: list[dict[str, npt.NDArray[Any]]]


def make_tower(name: str, folder: Path) -> Tower:
    """Export an encoder.

    Args:
        name: One of `TEXTS` or `IMAGES`.
        folder: Where its graph goes.
    """
    torch.manual_seed(11)
    generator = np.random.default_rng(11)
    path = folder / f"{name}.onnx"
    model = FusionModel(
        _text(name).eval(),
        _image(name).eval(),
        torch.nn.Identity(),
        tokenizer(),
        TextPreprocessing(max_length=LENGTHS[-1]),
        ImagePreprocessing(size=224),
    )
    if name in TEXTS:
        export_text_encoder(model, "pooled", path)
        ids = TensorSpec(contract.INPUT_IDS, (-1,), ragged=True)
        mask = TensorSpec(contract.ATTENTION_MASK, (-1,), ragged=True)
        output = TensorSpec(contract.TEXT_FEATURES, (768 if name == "bert" else 512,))
        return Tower(
            path,
            ComponentGraph("text_encoder", (ids, mask), (output,)),
            [_tokens(generator, length) for length in LENGTHS],
        )
    export_image_encoder(model, "pooled", path)
    pixels = TensorSpec(contract.PIXELS, (224, 224, 3))
    output = TensorSpec(contract.IMAGE_FEATURES, (2048 if name == "resnet50" else 768,))
    pictures = [generator.integers(0, 256, (1, 224, 224, 3), dtype=np.uint8) for _ in range(2)]
    return Tower(
        path,
        ComponentGraph("image_encoder", (pixels,), (output,)),
        [{contract.PIXELS: picture} for picture in pictures],
    )


def _tokens(generator: np.random.Generator, length: int) -> dict[str, npt.NDArray[Any]]:
    ids = generator.integers(1, VOCABULARY, (1, length))
    mask = np.ones_like(ids)
    mask[:, length // 2 :] = 0
    return {contract.INPUT_IDS: ids, contract.ATTENTION_MASK: mask}


def _text(name: str) -> torch.nn.Module:
    if name == "bert":
        return HuggingFaceTextEncoder(
            BertModel(BertConfig(vocab_size=VOCABULARY, num_hidden_layers=LAYERS)), "mean"
        )
    if name == "clip_text":
        config = CLIPTextConfig(vocab_size=VOCABULARY, num_hidden_layers=LAYERS)
        return HuggingFaceTextEncoder(CLIPTextModel(config), "mean")
    return torch.nn.Identity()


def _image(name: str) -> torch.nn.Module:
    if name == "vit":
        return HuggingFaceImageEncoder(ViTModel(ViTConfig(num_hidden_layers=LAYERS)), "pooled")
    if name == "resnet50":
        depths = [3, 4, 6, 3] if FULL else [1, 1, 1, 1]
        return HuggingFaceImageEncoder(ResNetModel(ResNetConfig(depths=depths)), "pooled")
    if name == "clip_vision":
        config = CLIPVisionConfig(num_hidden_layers=LAYERS, patch_size=16)
        return HuggingFaceImageEncoder(CLIPVisionModel(config), "pooled")
    return torch.nn.Identity()
