"""Fusion heads: absent modalities, modality dropout, masks, and their ONNX graphs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from tests.support.models import tokenizer
from tritium_builders import ImagePreprocessing, TextPreprocessing
from tritium_builders.bundle_schema import FeatureKind
from tritium_builders.export import export_fusion_head
from tritium_builders.models import (
    FUSION_HEADS,
    HEADS,
    KNOWN_MODULES,
    CrossModalTransformerFusion,
    FusionHead,
    GatedFusion,
    HierarchicalFusion,
    LateFusion,
    LowRankBilinearFusion,
    SingleModalityHead,
)
from tritium_builders.reference import FusionModel
from tritium_builders.training import recipe
from tritium_builders.training.recipe import STRATEGIES
from tritium_client.contract import Modality

TEXT, IMAGE, LABELS, TOKENS, PATCHES = 24, 40, 5, 7, 9
SMALL = {"width": 16, "hidden": 16, "heads": 2, "layers": 2, "rank": 3}
FUSIONS = sorted(FUSION_HEADS)
OVER_SEQUENCES = [kind for kind in FUSIONS if FUSION_HEADS[kind].sequences]
WITH_DROPOUT = [kind for kind in FUSIONS if kind != "late"]
"""late trains each modality alone, so nothing is ever dropped."""


def make(kind: str, modality_dropout: float = 0.5, **changes: int) -> FusionHead:
    torch.manual_seed(0)
    head = FUSION_HEADS[kind]
    sizes = {name: value for name, value in {**SMALL, **changes}.items() if name in head.settings}
    return head(
        text_features=TEXT, image_features=IMAGE, labels=LABELS, dropout=0.0,
        modality_dropout=modality_dropout, **sizes,
    )  # fmt: skip


def features(kind: str, batch: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    if kind in OVER_SEQUENCES:
        return torch.randn(batch, TOKENS, TEXT), torch.randn(batch, PATCHES, IMAGE)
    return torch.randn(batch, TEXT), torch.randn(batch, IMAGE)


def test_recipes_and_models_know_the_same_strategies() -> None:
    """The recipe's names are written out, because it is read without PyTorch."""
    assert set(STRATEGIES) == set(FUSION_HEADS)
    assert set(OVER_SEQUENCES) == recipe.OVER_SEQUENCES
    assert {kind for kind, head in HEADS.items() if "heads" in head.settings} == recipe.WITH_HEADS


def test_names_that_bundles_already_carry_stay_loadable() -> None:
    kept = {"concat", "cross_attention", "sequence_cross_attention", "single_modality"}
    assert kept <= set(KNOWN_MODULES)
    for kind in kept - {"single_modality"}:
        # The config of a bundle that was written before heads had layers and a rank.
        config = {"text_features": 8, "image_features": 6, "labels": 3, "width": 8, "hidden": 8}
        assert KNOWN_MODULES[kind].from_config({**config, "modality_dropout": 0.0}).kind == kind
    concat = KNOWN_MODULES["concat"].from_config({**config, "modality_dropout": 0.0})
    assert {name.split(".")[0] for name in concat.state_dict()} == {
        "text_projection", "image_projection", "absent_text", "absent_image", "classifier",
    }  # fmt: skip


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


@pytest.mark.parametrize("kind", WITH_DROPOUT)
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
def test_every_parameter_learns(kind: str) -> None:
    """Of the modalities that are there and, by modality dropout, of those that are not."""
    head = make(kind, modality_dropout=1.0).train()
    torch.manual_seed(2)
    head(*features(kind, 32)).square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", OVER_SEQUENCES)
@given(extra=st.integers(1, 6), content=st.floats(-1e4, 1e4), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_padding_does_not_change_a_sequence_heads_answer(
    kind: str, extra: int, content: float, seed: int
) -> None:
    head = make(kind).eval()
    text, image = features(kind, 2)
    mask = torch.ones(2, TOKENS, dtype=torch.int64)
    mask[1, 4:] = 0
    torch.manual_seed(seed)
    under = torch.randn(2, extra, TEXT) + content
    padded = torch.cat([text, under], dim=1)
    padded_mask = torch.cat([mask, torch.zeros(2, extra, dtype=torch.int64)], dim=1)
    for picture in (image, None):
        with torch.inference_mode():
            expected = head(text, picture, mask)
            answer = head(padded, picture, padded_mask)
            alone = head(text[1:, :4], None if picture is None else picture[1:], mask[1:, :4])
        assert torch.allclose(answer, expected, atol=1e-5)
        assert torch.allclose(answer[1:], alone, atol=1e-5)


@pytest.mark.parametrize("kind", OVER_SEQUENCES)
def test_without_a_mask_every_token_counts(kind: str) -> None:
    head = make(kind).eval()
    text, image = features(kind, 2)
    mask = torch.ones(2, TOKENS, dtype=torch.int64)
    assert torch.allclose(head(text, image, None), head(text, image, mask), atol=1e-5)
    mask[:, 3:] = 0
    assert not torch.allclose(head(text, image, None), head(text, image, mask), atol=1e-3)


@pytest.mark.parametrize("kind", OVER_SEQUENCES)
def test_a_dropped_text_is_the_absent_one_under_padding_too(kind: str) -> None:
    head = make(kind, modality_dropout=1.0)
    text, image = features(kind, 64)
    mask = (torch.arange(TOKENS) < torch.randint(1, TOKENS, (64, 1))).long()
    torch.manual_seed(2)
    trained = head.train()(text, image, mask)
    head.eval()
    close_to_image = (trained - head(None, image)).abs().amax(-1) < 1e-5
    close_to_text = (trained - head(text, None, mask)).abs().amax(-1) < 1e-5
    assert (close_to_image ^ close_to_text).all()


@pytest.mark.parametrize("kind", FUSIONS)
def test_the_same_head_comes_back_from_config_and_safetensors(kind: str, tmp_path: Path) -> None:
    head = make(kind).eval()
    if isinstance(head, LateFusion):
        head.text_weight.fill_(0.25)
    config = json.loads(json.dumps(head.config()))
    save_model(head, str(tmp_path / "head.safetensors"))
    again = KNOWN_MODULES[kind].from_config(config)
    missing, unexpected = load_model(again, tmp_path / "head.safetensors")
    assert not missing
    assert not unexpected
    assert not again.training
    text, image = features(kind, 4)
    assert torch.equal(again(text, image), head(text, image))


FULL = bool(os.environ.get("TRITIUM_TEST_FULL"))
GIVEN: list[tuple[Modality, ...]] = [("text", "image"), ("text",), ("image",)]
EXPORTS = [
    (kind, given)
    for index, kind in enumerate(FUSIONS)
    for turn, given in enumerate(GIVEN)
    if FULL or turn == 0 or kind in OVER_SEQUENCES or turn == 1 + index % 2
]
"""All together, and of heads over pooled features one modality alone in turn; else all of them."""


@pytest.mark.parametrize(("kind", "modalities"), EXPORTS)
def test_onnx_graph_answers_like_torch_for_any_batch(
    kind: str, modalities: tuple[Modality, ...], tmp_path: Path
) -> None:
    head = make(kind).eval()
    sequence = kind in OVER_SEQUENCES
    model = FusionModel(
        nn.Identity(), nn.Identity(), head, tokenizer(), TextPreprocessing(), ImagePreprocessing()
    )
    features_kind: FeatureKind = "sequence" if sequence else "pooled"
    path = tmp_path / "head.onnx"
    export_fusion_head(
        model,
        modalities,
        (features_kind, TEXT),
        (features_kind, (PATCHES, IMAGE) if sequence else (IMAGE,)),
        path,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        text, image = features(kind, batch)
        inputs = [part for part, name in ((text, "text"), (image, "image")) if name in modalities]
        arguments = [
            text if "text" in modalities else None,
            image if "image" in modalities else None,
        ]
        if sequence and "text" in modalities:
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


def test_late_fusion_averages_probabilities_by_its_weight() -> None:
    head = make("late").eval()
    assert isinstance(head, LateFusion)
    text, image = features("late", 3)
    alone = head(text, None).softmax(-1), head(None, image).softmax(-1)
    for weight in (0.0, 0.3, 1.0):
        head.text_weight.fill_(weight)
        expected = weight * alone[0] + (1 - weight) * alone[1]
        assert torch.allclose(head(text, image).softmax(-1), expected, atol=1e-6)


@pytest.mark.parametrize(("right", "low", "high"), [("text", 0.9, 1), ("image", 0, 0.1)])
def test_late_fusion_trusts_the_modality_that_is_right(right: str, low: float, high: float) -> None:
    head = make("late")
    assert isinstance(head, LateFusion)
    targets = torch.arange(50) % LABELS
    knows = 6 * nn.functional.one_hot(targets, LABELS).float()
    lies = knows.roll(1, dims=-1)
    text, image = (knows, lies) if right == "text" else (lies, knows)
    head.tune({("text",): text, ("image",): image}, targets)
    assert low <= float(head.text_weight) <= high
    head.tune({("text",): knows, ("image",): knows}, targets)
    assert float(head.text_weight) == 0.5  # nothing to choose


def test_late_fusion_with_certain_and_contrary_answers_is_finite() -> None:
    head = make("late").eval()
    targets = torch.zeros(2, dtype=torch.int64)
    sure = torch.tensor([[0.0, 200.0, 0, 0, 0]]).expand(2, -1)
    head.tune({("text",): sure, ("image",): sure}, targets)
    with torch.no_grad():
        for branch in head.children():
            branch[-1][-1].weight.mul_(1e4)  # type: ignore[index]
    assert head(*features("late", 4)).isfinite().all()


def test_weighted_sum_starts_equal_and_its_weights_sum_to_one() -> None:
    head = make("weighted_sum").eval()
    text, image = features("weighted_sum", 2)
    parts = head.text_projection(text), head.image_projection(image)  # type: ignore[operator]
    with torch.no_grad():
        for weights, shares in (((0.0, 0.0), (0.5, 0.5)), ((20.0, 0.0), (1.0, 0.0))):
            head.weights.copy_(torch.tensor(weights))  # type: ignore[operator]
            fused = shares[0] * parts[0] + shares[1] * parts[1]
            expected = head.classifier(fused)  # type: ignore[operator]
            assert torch.allclose(head(text, image), expected, atol=1e-5)


def test_the_gate_chooses_between_the_modalities() -> None:
    head = make("gated").eval()
    assert isinstance(head, GatedFusion)
    text, image = features("gated", 4)
    with torch.no_grad():
        head.gate.weight.zero_()
        head.gate.bias.fill_(50.0)  # all from the text
        assert torch.allclose(head(text, image), head(text, None), atol=1e-6)
        head.gate.bias.fill_(-50.0)  # all from the image
        assert torch.allclose(head(text, image), head(None, image), atol=1e-6)


@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_is_low_rank(rank: int) -> None:
    """Every fused feature is text' M image with M of that rank; M is its mixed derivative."""
    head = make("low_rank_bilinear", rank=rank)
    assert isinstance(head, LowRankBilinearFusion)
    text, image = torch.randn(16), torch.randn(16)

    def feature(one: Tensor, other: Tensor) -> Tensor:
        return head.fuse(one[None], other[None])[0, 2]

    hessian: Any = torch.autograd.functional.hessian  # untyped
    mixed = hessian(feature, (text, image))[0][1]
    assert mixed.shape == (16, 16)
    assert torch.linalg.matrix_rank(mixed, atol=1e-5) == rank
    fusing = (head.text_factors, head.image_factors)
    parameters = sum(one.numel() for layer in fusing for one in layer.parameters())
    assert parameters == 2 * rank * (16 + 1) * 16  # a full one has 17 * 17 * 16
    assert parameters < 17 * 17 * 16


def test_hierarchical_fusion_takes_from_every_depth() -> None:
    head = make("hierarchical").eval()
    assert isinstance(head, HierarchicalFusion)
    text, image = features("hierarchical", 2)
    before = head(text, image)
    for depth in range(3):
        for modality in range(2):
            changed = make("hierarchical").eval()
            assert isinstance(changed, HierarchicalFusion)
            with torch.no_grad():
                changed.modality_weights[depth, modality] = 0.0
            assert not torch.allclose(changed(text, image), before, atol=1e-4)


@pytest.mark.parametrize("kind", ["cross_modal_transformer", "cross_attention"])
def test_heads_that_do_not_divide_the_width_are_refused(kind: str) -> None:
    with pytest.raises((ValueError, AssertionError), match=r"multiple of heads|divisible"):
        make(kind, heads=3)


def test_modalities_are_told_apart_in_the_transformer() -> None:
    """The same features as tokens and as patches are not the same answer."""
    torch.manual_seed(0)
    head = FUSION_HEADS["cross_modal_transformer"](
        text_features=TEXT, image_features=TEXT, labels=LABELS, modality_dropout=0.0, width=16,
    ).eval()  # fmt: skip
    assert isinstance(head, CrossModalTransformerFusion)
    head.image_projection.load_state_dict(head.text_projection.state_dict())
    first, second = torch.randn(2, 3, TEXT), torch.randn(2, 4, TEXT)
    assert not torch.allclose(head(first, second), head(second, first), atol=1e-4)
    with torch.no_grad():
        head.modalities.zero_()
    assert torch.allclose(head(first, second), head(second, first), atol=1e-5)


def test_single_modality_head_reads_one_modality_only() -> None:
    torch.manual_seed(0)
    head = SingleModalityHead(text_features=0, image_features=IMAGE, labels=LABELS).eval()
    text, image = features("concat", 2)
    assert torch.equal(head(text, image), head(None, image))
    with pytest.raises(ValueError, match="absent"):
        head(text, None)
    patches = torch.randn(2, PATCHES, IMAGE)
    assert torch.allclose(head(None, patches), head(None, patches.mean(1)))
    with pytest.raises(ValueError, match="exactly one"):
        SingleModalityHead(text_features=TEXT, image_features=IMAGE, labels=LABELS)


def test_modality_dropout_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"between 0 and 1, not 1\.5"):
        make("concat", modality_dropout=1.5)
