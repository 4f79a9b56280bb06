"""Features: the reference's own numbers, computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import BertConfig, BertModel, ResNetConfig, ResNetModel

from tritium_builders.bundle import Bundle
from tritium_builders.data import Dataset
from tritium_builders.data.cache import cache_folder
from tritium_builders.errors import ExportError, RecipeError
from tritium_builders.graph_cache import cached_export
from tritium_builders.models import (
    FUSION_HEADS,
    HuggingFaceImageEncoder,
    HuggingFaceTextEncoder,
    LoadedImageEncoder,
    LoadedTextEncoder,
)
from tritium_builders.preprocessing import ImagePreprocessing
from tritium_builders.reference import FusionModel
from tritium_builders.training.encoder_runs import EncoderRun
from tritium_builders.training.features import Features, compute_features
from tritium_builders.training.folds import Prepared
from tritium_client.contract import INPUT_IDS

Encoders = tuple[LoadedTextEncoder, LoadedImageEncoder]


class Counted:
    """Counts how often a module runs."""

    def __init__(self, module: nn.Module) -> None:
        self.calls = 0
        module.register_forward_hook(self)

    def __call__(self, *_: object) -> None:
        self.calls += 1


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def few(some_emojis: Dataset) -> Dataset:
    return replace(some_emojis, items=(*some_emojis.items[:10], *some_emojis.items[-10:]))


@pytest.fixture
def encoders(text_encoder: LoadedTextEncoder) -> Encoders:
    """Tiny encoders that give sequences; every test has its own, to count their calls."""
    torch.manual_seed(0)
    bert = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
    return (
        replace(text_encoder, module=HuggingFaceTextEncoder(BertModel(bert), "none").eval()),
        LoadedImageEncoder(
            HuggingFaceImageEncoder(ResNetModel(resnet), "none").eval(), ImagePreprocessing(size=32)
        ),
    )


def assert_equals_reference(features: Features, dataset: Dataset, encoders: Encoders) -> None:
    """One item at a time and unpadded: what the parity gate compares with."""
    text, image = encoders
    tokenizer = Tokenizer.from_buffer(text.tokenizer_json)
    model = FusionModel(
        text.module, image.module, nn.Identity(), tokenizer, text.preprocessing, image.preprocessing
    )
    for index, item in enumerate(dataset.items):
        answer = model.answer(item.text, item.read_image(), [])
        own = features.text[index]
        if features.text_mask is not None:
            assert own[features.text_mask[index] == 0].abs().sum() == 0
            own = own[features.text_mask[index] == 1]
        expected = torch.from_numpy(answer.text_features)
        torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-4)
        expected = torch.from_numpy(answer.image_features)
        torch.testing.assert_close(features.image[index], expected, atol=1e-5, rtol=1e-4)


def test_pooled_features_are_the_references(prepared: Prepared) -> None:
    assert prepared.features.text_mask is None
    few = replace(prepared.dataset, items=prepared.dataset.items[:12])
    selected = prepared.features.select(torch.arange(12))
    assert_equals_reference(selected, few, (prepared.text, prepared.image))


def test_sequence_features_are_the_references(few: Dataset, encoders: Encoders) -> None:
    features = compute_features(few, *encoders)
    assert features.text_mask is not None
    assert features.text.ndim == features.image.ndim == 3
    assert_equals_reference(features, few, encoders)


def test_features_are_computed_once(few: Dataset, encoders: Encoders) -> None:
    counters = [Counted(encoder.module) for encoder in encoders]
    first = compute_features(few, *encoders)
    calls = [counter.calls for counter in counters]
    assert min(calls) > 0
    again = compute_features(few, *encoders)
    assert [counter.calls for counter in counters] == calls
    assert torch.equal(again.text, first.text)
    assert torch.equal(again.image, first.image)


def test_one_more_item_is_one_more_row(few: Dataset, encoders: Encoders) -> None:
    fewer = replace(few, items=few.items[1:])
    compute_features(fewer, *encoders)
    seen: list[tuple[int, ...]] = []
    for encoder in encoders:
        encoder.module.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(next(iter((*args, *kwargs.values()))).shape),
            with_kwargs=True,
        )
    features = compute_features(few, *encoders)
    assert [shape[0] for shape in seen] == [1, 1]
    assert_equals_reference(features, few, encoders)


@pytest.fixture
def at_openvinos_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritium_builders.training.features.MANY", 1)


@pytest.mark.usefixtures("at_openvinos_speed")
def test_openvino_gives_the_references_numbers_and_builds_find_its_graph(
    few: Dataset,
    encoders: Encoders,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    features = compute_features(few, *encoders)
    assert not caplog.records
    assert_equals_reference(features, few, encoders)
    assert len(list(cache_folder().glob("graph-*"))) == 2
    text, image = encoders
    sizes = {"text_features": 16, "image_features": 8, "labels": 2, "width": 8, "heads": 2}
    bundle = Bundle.from_modules(
        path=tmp_path / "bundle", text_encoder=text.module, image_encoder=image.module,
        fusion_head=FUSION_HEADS["sequence_cross_attention"](modality_dropout=0.0, **sizes),
        tokenizer=text.tokenizer_json, text_preprocessing=text.preprocessing, app="small",
        image_preprocessing=image.preprocessing, labels=("a", "b"),
        examples=[item.sample(labelled=False) for item in few.items[:2]],
    )  # fmt: skip
    for component in ("text_encoder", "image_encoder"):
        cached_export(
            bundle, component, "model.onnx", tmp_path / component,
            lambda _: pytest.fail("training has exported it"),
        )  # fmt: skip
        assert onnx.load(tmp_path / component).graph.node


@pytest.mark.usefixtures("at_openvinos_speed")
def test_where_openvino_disagrees_pytorch_does_the_work(
    few: Dataset,
    encoders: Encoders,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def wrong(_: object, modality: str, kind: str) -> EncoderRun:
        del kind
        if modality == "image":
            raise ExportError("no such operator")
        return EncoderRun(lambda inputs: np.ones((*inputs[INPUT_IDS].shape, 16), np.float32), 2)

    monkeypatch.setattr("tritium_builders.training.encoder_runs._openvino", wrong)
    assert_equals_reference(compute_features(few, *encoders), few, encoders)
    image, text = (record.message for record in caplog.records)
    assert text.startswith("text encoder: PyTorch computes its features, as OpenVINO cannot: rel")
    assert image.endswith("as OpenVINO cannot: no such operator")


def test_a_truncated_cache_file_is_computed_again(few: Dataset, encoders: Encoders) -> None:
    first = compute_features(few, *encoders)
    for path in cache_folder().glob("*-features-*/*.zip"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    counters = [Counted(encoder.module) for encoder in encoders]
    again = compute_features(few, *encoders)
    assert min(counter.calls for counter in counters) > 0
    assert torch.equal(again.text, first.text)
    assert torch.equal(again.image, first.image)


def other_weights(text: LoadedTextEncoder, image: LoadedImageEncoder) -> Encoders:
    with torch.no_grad():
        for encoder in (text, image):
            next(encoder.module.parameters()).add_(0.5)
    return text, image


def other_preprocessing(text: LoadedTextEncoder, image: LoadedImageEncoder) -> Encoders:
    shorter = text.preprocessing.model_copy(update={"max_length": 3})
    bilinear = image.preprocessing.model_copy(update={"resample": "bilinear"})
    return replace(text, preprocessing=shorter), replace(image, preprocessing=bilinear)


@pytest.mark.parametrize("change", [other_weights, other_preprocessing])
def test_other_weights_or_preprocessing_are_other_features(
    change: Callable[[LoadedTextEncoder, LoadedImageEncoder], Encoders],
    few: Dataset,
    encoders: Encoders,
) -> None:
    first = compute_features(few, *encoders)
    changed = change(*encoders)
    again = compute_features(few, *changed)
    assert first.text.shape != again.text.shape or not torch.allclose(first.text, again.text)
    assert not torch.allclose(first.image, again.image)
    if change is other_weights:
        assert_equals_reference(again, few, changed)


def test_an_item_that_cannot_be_read_is_named(few: Dataset, encoders: Encoders) -> None:
    bad_image = replace(few.items[3], image=b"no picture")
    with pytest.raises(RecipeError, match=rf"item {bad_image.id}: image: not a picture"):
        compute_features(replace(few, items=(bad_image, *few.items[4:])), *encoders)
    bad_text = replace(few.items[3], text=" ")
    with pytest.raises(RecipeError, match=rf"item {bad_text.id}: text: the text is empty"):
        compute_features(replace(few, items=(bad_text, *few.items[4:])), *encoders)
