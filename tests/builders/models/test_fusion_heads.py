"""Fusion heads: absent modalities, modality dropout, masks, and their ONNX graphs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tests.support.models import tokenizer
from tritium_builders import ImagePreprocessing, TextPreprocessing
from tritium_builders.bundle_schema import FeatureKind
from tritium_builders.export import export_fusion_head
from tritium_builders.models import (
    KNOWN_MODULES,
    ConcatFusion,
    CrossAttentionFusion,
    FusionHead,
    SequenceCrossAttentionFusion,
    SingleModalityHead,
)
from tritium_builders.reference import FusionModel
from tritium_client.contract import Modality

TEXT, IMAGE, LABELS, TOKENS, PATCHES = 24, 40, 5, 7, 9


def make(kind: str, modality_dropout: float = 0.5) -> FusionHead:
    torch.manual_seed(0)
    if kind == "concat":
        return ConcatFusion(
            text_features=TEXT, image_features=IMAGE, labels=LABELS, width=16, hidden=16,
            dropout=0.0, modality_dropout=modality_dropout,
        )  # fmt: skip
    make_attention = (
        CrossAttentionFusion if kind == "cross_attention" else SequenceCrossAttentionFusion
    )
    return make_attention(
        text_features=TEXT, image_features=IMAGE, labels=LABELS, width=16, heads=2, hidden=16,
        dropout=0.0, modality_dropout=modality_dropout,
    )  # fmt: skip


def features(kind: str, batch: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    if kind == "sequence_cross_attention":
        return torch.randn(batch, TOKENS, TEXT), torch.randn(batch, PATCHES, IMAGE)
    return torch.randn(batch, TEXT), torch.randn(batch, IMAGE)


FUSIONS = ["concat", "cross_attention", "sequence_cross_attention"]


@pytest.mark.parametrize("kind", FUSIONS)
def test_answers_with_either_modality_absent_and_refuses_none(kind: str) -> None:
    head = make(kind).eval()
    text, image = features(kind, 3)
    answers = [head(text, image), head(text, None), head(None, image)]
    assert [tuple(logits.shape) for logits in answers] == [(3, LABELS)] * 3
    assert not torch.allclose(answers[0], answers[1])
    assert not torch.allclose(answers[0], answers[2])
    with pytest.raises(ValueError, match="both absent"):
        head(None, None)


@pytest.mark.parametrize("kind", FUSIONS)
def test_a_dropped_modality_is_the_absent_one(kind: str) -> None:
    """What the head learns from dropped items is what it is asked when a caller leaves one out."""
    head = make(kind, modality_dropout=1.0)
    text, image = features(kind, 64)
    torch.manual_seed(2)
    trained = head.train()(text, image)
    head.eval()
    without_text, without_image = head(None, image), head(text, None)
    close_to_image = (trained - without_text).abs().amax(-1) < 1e-5
    close_to_text = (trained - without_image).abs().amax(-1) < 1e-5
    assert (close_to_image ^ close_to_text).all()
    assert close_to_image.any()
    assert close_to_text.any()


@pytest.mark.parametrize("kind", FUSIONS)
def test_modality_dropout_is_off_in_evaluation(kind: str) -> None:
    head = make(kind, modality_dropout=1.0).eval()
    text, image = features(kind, 8)
    assert torch.equal(head(text, image), head(text, image))
    assert not torch.allclose(head(text, image), head(text, None))


@pytest.mark.parametrize("kind", FUSIONS)
def test_absent_vectors_learn(kind: str) -> None:
    head = make(kind, modality_dropout=1.0).train()
    torch.manual_seed(2)
    head(*features(kind, 32)).square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_padding_does_not_change_a_sequence_heads_answer() -> None:
    head = make("sequence_cross_attention").eval()
    text, image = features("sequence_cross_attention", 2)
    mask = torch.ones(2, TOKENS, dtype=torch.int64)
    padded = torch.cat([text, torch.full((2, 3, TEXT), 9.0)], dim=1)
    padded_mask = torch.cat([mask, torch.zeros(2, 3, dtype=torch.int64)], dim=1)
    for picture in (image, None):
        expected = head(text, picture, mask)
        assert torch.allclose(head(padded, picture, padded_mask), expected, atol=1e-5)
        assert not torch.allclose(head(padded, picture, None), expected, atol=1e-3)


@pytest.mark.parametrize("kind", FUSIONS)
def test_the_same_head_comes_back_from_config_and_weights(kind: str) -> None:
    head = make(kind).eval()
    config = json.loads(json.dumps(head.config()))
    again = KNOWN_MODULES[head.kind].from_config(config)
    again.load_state_dict(head.state_dict())
    text, image = features(kind, 4)
    assert torch.equal(again(text, image), head(text, image))


@pytest.mark.parametrize("kind", FUSIONS)
@pytest.mark.parametrize("given", [("text", "image"), ("text",), ("image",)])
def test_onnx_graph_answers_like_torch_for_any_batch(
    kind: str, given: tuple[Modality, ...], tmp_path: Path
) -> None:
    head = make(kind).eval()
    sequence = kind == "sequence_cross_attention"
    model = FusionModel(
        nn.Identity(), nn.Identity(), head, tokenizer(), TextPreprocessing(), ImagePreprocessing()
    )
    features_kind: FeatureKind = "sequence" if sequence else "pooled"
    path = tmp_path / "head.onnx"
    export_fusion_head(
        model,
        given,
        (features_kind, TEXT),
        (features_kind, (PATCHES, IMAGE) if sequence else (IMAGE,)),
        path,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        text, image = features(kind, batch)
        inputs = [part for part, name in ((text, "text"), (image, "image")) if name in given]
        arguments = [text if "text" in given else None, image if "image" in given else None]
        if sequence and "text" in given:
            mask = torch.ones(batch, TOKENS, dtype=torch.int64)
            mask[0, 4:] = 0
            inputs.append(mask)
            arguments.append(mask)
        names = [one.name for one in session.get_inputs()]
        (answer,) = session.run(
            None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        )
        with torch.inference_mode():
            expected = head(*arguments).softmax(-1).numpy()
        np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_single_modality_head_reads_one_modality_only() -> None:
    torch.manual_seed(0)
    head = SingleModalityHead(text_features=0, image_features=IMAGE, labels=LABELS).eval()
    text, image = features("concat", 2)
    assert torch.equal(head(text, image), head(None, image))
    with pytest.raises(ValueError, match="absent"):
        head(text, None)
    with pytest.raises(ValueError, match="exactly one"):
        SingleModalityHead(text_features=TEXT, image_features=IMAGE, labels=LABELS)


def test_modality_dropout_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"between 0 and 1, not 1\.5"):
        make("concat", modality_dropout=1.5)
