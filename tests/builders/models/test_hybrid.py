"""Hybrid fusion: who answers when, and how much each counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from tests.support.models import tokenizer
from tritium_builders import ImagePreprocessing, TextPreprocessing
from tritium_builders.export import export_fusion_head
from tritium_builders.models import (
    KNOWN_MODULES,
    ConcatFusion,
    HybridFusion,
    SequenceCrossAttentionFusion,
    SingleModalityHead,
)
from tritium_builders.reference import FusionModel
from tritium_client.contract import Modality

TEXT, IMAGE, LABELS = 12, 20, 4


def make(*, sequences: bool = False) -> HybridFusion:
    torch.manual_seed(0)
    sizes = {"labels": LABELS, "width": 8, "hidden": 8, "dropout": 0.0}
    kind = SequenceCrossAttentionFusion if sequences else ConcatFusion
    return HybridFusion(
        kind(text_features=TEXT, image_features=IMAGE, **sizes),  # type: ignore[arg-type]
        SingleModalityHead(text_features=TEXT, image_features=0, **sizes),  # type: ignore[arg-type]
        SingleModalityHead(text_features=0, image_features=IMAGE, **sizes),  # type: ignore[arg-type]
    ).eval()


def test_with_a_modality_absent_the_others_own_head_answers() -> None:
    head = make()
    text, image = torch.randn(5, TEXT), torch.randn(5, IMAGE)
    head.weights.copy_(torch.tensor([0.2, 0.3, 0.5]))
    assert torch.equal(head(text, None), head.text(text, None))
    assert torch.equal(head(None, image), head.image(None, image))
    with pytest.raises(ValueError, match="both absent"):
        head(None, None)


def test_with_both_probabilities_are_averaged_by_the_weights() -> None:
    head = make()
    text, image = torch.randn(5, TEXT), torch.randn(5, IMAGE)
    parts = [head.fusion(text, image), head.text(text, None), head.image(None, image)]
    assert torch.allclose(head(text, image).softmax(-1), parts[0].softmax(-1), atol=1e-6)
    weights = torch.tensor([0.2, 0.3, 0.5])
    head.weights.copy_(weights)
    expected = sum(w * part.softmax(-1) for w, part in zip(weights, parts, strict=True))
    assert torch.allclose(head(text, image).softmax(-1), expected, atol=1e-6)


def test_padding_changes_nothing_over_sequences() -> None:
    head = make(sequences=True)
    head.weights.copy_(torch.tensor([0.4, 0.4, 0.2]))
    text, image = torch.randn(2, 6, TEXT), torch.randn(2, 9, IMAGE)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]] * 2)
    for picture in (image, None):
        padded, alone = head(text, picture, mask), head(text[:, :4], picture, mask[:, :4])
        assert torch.allclose(padded, alone, atol=1e-5)


@pytest.mark.parametrize("right", [0, 1, 2])
def test_the_one_that_is_right_gets_the_weight(right: int) -> None:
    head = make()
    targets = torch.arange(40) % LABELS
    knows = 6 * nn.functional.one_hot(targets, LABELS).float()
    answers = [knows if index == right else knows.roll(1, dims=-1) for index in range(3)]
    head.tune(dict(zip([("text", "image"), ("text",), ("image",)], answers, strict=True)), targets)
    assert head.weights[right] >= 0.9
    assert float(head.weights.sum()) == pytest.approx(1)


def test_the_same_head_comes_back_from_its_config() -> None:
    head = make()
    head.weights.copy_(torch.tensor([0.5, 0.25, 0.25]))
    again = KNOWN_MODULES["hybrid"].from_config(head.config())
    again.load_state_dict(head.state_dict())
    text, image = torch.randn(3, TEXT), torch.randn(3, IMAGE)
    assert torch.equal(again(text, image), head(text, image))
    assert not again.training


@pytest.mark.parametrize("modalities", [("text", "image"), ("image",)])
def test_its_graph_answers_like_torch(modalities: tuple[Modality, ...], tmp_path: Path) -> None:
    head = make(sequences=True)
    head.weights.copy_(torch.tensor([0.5, 0.3, 0.2]))
    model = FusionModel(
        nn.Identity(), nn.Identity(), head, tokenizer(), TextPreprocessing(), ImagePreprocessing()
    )
    path = tmp_path / "head.onnx"
    export_fusion_head(model, modalities, ("sequence", TEXT), ("sequence", (9, IMAGE)), path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    text, image = torch.randn(3, 6, TEXT), torch.randn(3, 9, IMAGE)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6, [1, 1, 0, 0, 0, 0]])
    inputs = [text, image, mask] if "text" in modalities else [image]
    names = [one.name for one in session.get_inputs()]
    feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
    (answer,) = session.run(None, feed)
    with torch.inference_mode():
        expected = head(text, image, mask) if "text" in modalities else head(None, image)
    np.testing.assert_allclose(answer, expected.softmax(-1).numpy(), atol=1e-5)
