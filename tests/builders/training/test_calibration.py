"""Temperatures: found on the validation side, kept in the head, the same when it is exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tests.support.models import tokenizer
from tritium_builders import ImagePreprocessing, TextPreprocessing
from tritium_builders.export import export_fusion_head
from tritium_builders.models import FUSION_HEADS, KNOWN_MODULES, FusionHead, TemperatureScaled
from tritium_builders.models.fusion.base import BOTH, IMAGE, TEXT
from tritium_builders.reference import FusionModel
from tritium_builders.training.calibration import BOUNDS, fit_temperature
from tritium_builders.training.folds import Prepared, train_fold
from tritium_builders.training.objective import SingleLabel


def calibrated(prepared: Prepared) -> Prepared:
    fusion = prepared.recipe.fusion.model_copy(update={"calibration": "temperature"})
    return replace(prepared, recipe=prepared.recipe.model_copy(update={"fusion": fusion}))


def small_head(kind: str) -> FusionHead:
    torch.manual_seed(0)
    sizes = {"text_features": 8, "image_features": 6, "labels": 3, "width": 8, "hidden": 8}
    return FUSION_HEADS[kind](**sizes, modality_dropout=0.0).eval()


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_too_sure_answers_are_taken_down_to_what_they_are_worth(
    factor: float, prepared: Prepared
) -> None:
    torch.manual_seed(0)
    objective = SingleLabel(prepared.recipe, prepared.dataset)
    honest = torch.randn(20_000, 4)
    targets = torch.multinomial(honest.softmax(-1), 1).squeeze(1)
    found = fit_temperature(factor * honest, targets, objective)
    assert found == pytest.approx(factor, rel=0.05)


def test_answers_that_are_all_right_ask_for_no_temperature_of_zero(prepared: Prepared) -> None:
    objective = SingleLabel(prepared.recipe, prepared.dataset)
    found = fit_temperature(5 * torch.eye(4), torch.arange(4), objective)
    assert BOUNDS[0] <= found < 1


def test_training_puts_temperatures_on_the_head(prepared: Prepared) -> None:
    """Labels stay, on every entry point; probabilities fit the validation side better."""
    before = train_fold(prepared, fold=0, seed=0)
    after = train_fold(calibrated(prepared), fold=0, seed=0)
    assert isinstance(after.head, TemperatureScaled)
    assert len(set(after.head.temperatures.tolist()) - {1.0}) == 3
    assert after.validation_accuracy == before.validation_accuracy
    assert after.validation_loss < before.validation_loss
    for key, answers in before.probabilities.items():
        assert (after.probabilities[key].argmax(-1) == answers.argmax(-1)).all()
        assert not np.allclose(after.probabilities[key], answers)


def test_the_held_out_fold_has_no_say(prepared: Prepared) -> None:
    own = calibrated(prepared)
    held_out = torch.from_numpy(own.split(0).held_out)
    text = own.features.text.clone()
    text[held_out] = float("nan")
    spoilt = replace(own, features=replace(own.features, text=text))
    heads = [train_fold(one, fold=0, seed=0).head for one in (own, spoilt)]
    assert torch.equal(*(head.state_dict()["temperatures"] for head in heads))


@pytest.mark.parametrize("kind", ["gated", "sequence_cross_attention"])
def test_each_set_of_modalities_has_its_own(kind: str) -> None:
    head = small_head(kind)
    scaled = TemperatureScaled(head, {BOTH: 2.0, TEXT: 4.0, IMAGE: 8.0}).eval()
    again = KNOWN_MODULES["temperature_scaled"].from_config(scaled.config())
    again.load_state_dict(scaled.state_dict())
    mask: tuple[Tensor, ...] = ()
    text, image = torch.randn(2, 8), torch.randn(2, 6)
    if kind == "sequence_cross_attention":
        text, image, mask = torch.randn(2, 5, 8), torch.randn(2, 4, 6), (torch.ones(2, 5).long(),)
        mask[0][1, 2:] = 0
    for one in (scaled, again):
        torch.testing.assert_close(one(text, image, *mask), head(text, image, *mask) / 2)
        torch.testing.assert_close(one(text, None, *mask), head(text, None, *mask) / 4)
        torch.testing.assert_close(one(None, image), head(None, image) / 8)


def test_a_temperature_is_positive() -> None:
    with pytest.raises(ValueError, match=r"larger than 0, not 0\.0"):
        TemperatureScaled(small_head("concat"), {TEXT: 0.0})


def test_the_exported_graph_has_the_temperature(tmp_path: Path) -> None:
    head = TemperatureScaled(small_head("concat"), {TEXT: 4.0}).eval()
    model = FusionModel(
        nn.Identity(), nn.Identity(), head, tokenizer(), TextPreprocessing(), ImagePreprocessing()
    )
    path = tmp_path / "text.onnx"
    export_fusion_head(model, TEXT, ("pooled", 8), ("pooled", (6,)), path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    text = torch.randn(5, 8)
    (served,) = session.run(None, {session.get_inputs()[0].name: text.numpy()})
    with torch.inference_mode():
        expected = (head.head(text, None) / 4).softmax(-1)
    np.testing.assert_allclose(served, expected.numpy(), atol=1e-5)
