"""Ensemble heads: what they make of their members' answers, and what a bundle keeps of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from tests.support.models import tokenizer
from tritium_builders import ImagePreprocessing, TextPreprocessing
from tritium_builders.export import export_fusion_head
from tritium_builders.models import (
    FUSION_HEADS,
    KNOWN_MODULES,
    ConcatenatedEncoder,
    FusionHead,
    HuggingFaceTextEncoder,
    TemperatureScaled,
)
from tritium_builders.models.ensembles import (
    COMBINATIONS,
    GIVEN,
    Combine,
    EnsembleHead,
    Member,
    make_ensemble,
)
from tritium_builders.reference import FusionModel

TEXT, IMAGE, LABELS = 12, 10, 4
SIZES = {"width": 8, "hidden": 8, "heads": 2, "layers": 1, "rank": 2}


def head(kind: str = "concat", seed: int = 0, text: int = TEXT, image: int = IMAGE) -> FusionHead:
    torch.manual_seed(seed)
    chosen = FUSION_HEADS[kind]
    made = chosen(
        text_features=text, image_features=image, labels=LABELS, dropout=0.1, modality_dropout=0.0,
        **{name: SIZES[name] for name in chosen.settings},
    )  # fmt: skip
    return made.eval()


def ensemble(combine: Combine = "average") -> EnsembleHead:
    """Two members of their own features and labels, and two that share all."""
    made = make_ensemble(
        [
            Member(head("concat", 0), labels=(3, 1, 0, 2)),
            Member(head("late", 1)),
            Member(head("gated", 2, text=5), text=(7, 12)),
            Member(head("concat", 3, image=4), image=(0, 4)),
        ],
        combine,
        LABELS,
    )
    torch.manual_seed(9)
    for given in GIVEN:
        if combine == "stacking":
            made.set_regression(given, torch.randn(LABELS, 4 * LABELS), torch.randn(LABELS))
        else:
            made.set_weights(given, torch.rand(4).softmax(-1).tolist())
    return made


def features(batch: int = 3) -> tuple[Tensor, Tensor]:
    torch.manual_seed(4)
    return torch.randn(batch, TEXT), torch.randn(batch, IMAGE)


def test_an_average_is_the_weighted_mean_of_the_members_probabilities() -> None:
    text, image = features()
    first, second = head("concat", 0), head("late", 1)
    made = make_ensemble([Member(first), Member(second)], "average", LABELS)
    made.set_weights(("text", "image"), [0.75, 0.25])
    made.set_weights(("text",), [0.1, 0.9])
    for given, weight in (((text, image), 0.75), ((text, None), 0.1), ((None, image), 0.5)):
        one, other = (member(*given).softmax(-1) for member in (first, second))
        expected = weight * one + (1 - weight) * other
        torch.testing.assert_close(made(*given).softmax(-1), expected)


def test_a_sum_adds_logits_and_a_regression_reads_logarithms_of_probabilities() -> None:
    text, image = features()
    first, second = head("concat", 0), head("gated", 1)
    both = [Member(first), Member(second)]
    added = make_ensemble(both, "sum", LABELS)
    added.set_weights(("text", "image"), [1.0, 0.5])
    logits = first(text, image), second(text, image)
    torch.testing.assert_close(added(text, image), logits[0] + 0.5 * logits[1])
    stacked = make_ensemble(both, "stacking", LABELS)
    coefficients, biases = torch.randn(LABELS, 2 * LABELS), torch.randn(LABELS)
    stacked.set_regression(("text", "image"), coefficients, biases)
    levels = torch.cat([one.log_softmax(-1) for one in logits], -1)
    torch.testing.assert_close(stacked(text, image), levels @ coefficients.T + biases)


def test_members_read_their_own_features_and_labels_come_in_the_ensembles_order() -> None:
    text, image = features()
    wide = torch.cat([torch.randn(3, 5), text], -1)
    own = head("concat", 0)
    made = make_ensemble([Member(own, text=(5, 5 + TEXT), labels=(2, 0, 3, 1))], "average", LABELS)
    expected = own(text, image).softmax(-1)[:, [2, 0, 3, 1]]
    torch.testing.assert_close(made(wide, image).softmax(-1), expected)


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_what_a_bundle_keeps_makes_the_same_ensemble(combine: Combine, tmp_path: Path) -> None:
    made = ensemble(combine)
    save_model(made, str(tmp_path / "head.safetensors"))
    config = json.loads(json.dumps(made.config()))
    again = KNOWN_MODULES[made.kind].from_config(config)
    load_model(again, str(tmp_path / "head.safetensors"))
    text, image = features()
    for given in ((text, image), (text, None), (None, image)):
        assert torch.equal(again(*given), made(*given))


@pytest.mark.parametrize(
    ("combine", "given"),
    [
        *zip(COMBINATIONS, GIVEN, strict=True),
        *(
            pytest.param(combine, given, marks=pytest.mark.full)
            for combine in COMBINATIONS
            for given in GIVEN
            if (combine, given) not in zip(COMBINATIONS, GIVEN, strict=True)
        ),
    ],
)
def test_its_graph_answers_as_pytorch_for_any_batch(
    combine: Combine, given: tuple[str, ...], tmp_path: Path
) -> None:
    made, path = ensemble(combine), tmp_path / "head.onnx"
    model = FusionModel(
        nn.Identity(), nn.Identity(), made, tokenizer(), TextPreprocessing(), ImagePreprocessing()
    )
    export_fusion_head(model, given, ("pooled", TEXT), ("pooled", (IMAGE,)), path)  # type: ignore[arg-type]
    session = onnxruntime.InferenceSession(str(path))
    text, image = features(7)
    inputs = {"text": ("text_features", text), "image": ("image_features", image)}
    feed = {inputs[one][0]: inputs[one][1].numpy() for one in given}
    with torch.inference_mode():
        expected = made(text if "text" in given else None, image if "image" in given else None)
    np.testing.assert_allclose(session.run(None, feed)[0], expected.softmax(-1), atol=1e-5)


def test_ensembles_over_sequences_pass_the_mask_on() -> None:
    members = [Member(head("sequence_cross_attention", seed)) for seed in (0, 1)]
    made = make_ensemble(members, "average", LABELS)
    text, image = torch.randn(2, 6, TEXT), torch.randn(2, 3, IMAGE)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    alone = made(text[:1, :4], image[:1], mask[:1, :4])
    torch.testing.assert_close(made(text, image, mask)[:1], alone)


def test_an_ensemble_may_be_a_member_of_another() -> None:
    inner = ensemble()
    scaled = TemperatureScaled(head("late", 5), {("text",): 2.0})
    outer = make_ensemble([Member(inner), Member(scaled)], "average", LABELS)
    again = KNOWN_MODULES["ensemble"].from_config(json.loads(json.dumps(outer.config())))
    again.load_state_dict(outer.state_dict())
    assert torch.equal(again(*features()), outer(*features()))


def test_encoders_side_by_side(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    torch.manual_seed(3)
    configs = [
        BertConfig(
            hidden_size=size, intermediate_size=8, vocab_size=50, num_hidden_layers=1,
            num_attention_heads=2,
        )
        for size in (8, 12)
    ]  # fmt: skip
    encoders = [HuggingFaceTextEncoder(BertModel(config), "mean").eval() for config in configs]
    joined = ConcatenatedEncoder(encoders)
    ids = torch.randint(50, (2, 5))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    expected = torch.cat([encoder(ids, mask) for encoder in encoders], -1)
    assert torch.equal(joined(ids, mask), expected)
    save_model(joined, str(tmp_path / "encoder.safetensors"))
    again = ConcatenatedEncoder.from_config(json.loads(json.dumps(joined.config())))
    load_model(again, str(tmp_path / "encoder.safetensors"))
    assert torch.equal(again(ids, mask), expected)
