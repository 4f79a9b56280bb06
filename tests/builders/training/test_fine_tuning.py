"""Encoders that learn: which weights do, how fast, and that a bundle keeps what they became."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn

from tests.builders.training.conftest import tuned
from tritium_builders import build
from tritium_builders.errors import RecipeError
from tritium_builders.models import FUSION_HEADS, HuggingFaceTextEncoder, HybridFusion
from tritium_builders.reference import FusionModel
from tritium_builders.samples import modalities_key
from tritium_builders.training import Recipe
from tritium_builders.training.features import compute_features, truncating_tokenizer
from tritium_builders.training.folds import Prepared, train_fold
from tritium_builders.training.inputs import Feed
from tritium_builders.training.network import FusionNetwork
from tritium_builders.training.objective import make_objective
from tritium_builders.training.optimisation import (
    ENCODER_RATE,
    LORA_RATE,
    computing_in,
    parameter_groups,
    rate_factor,
)
from tritium_builders.training.recipe import EncoderTable, OptimiserTable
from tritium_builders.training.run import train_seeds, write_bundle
from tritium_builders.training.trainable import merge_lora, set_training, trainable_copy


def changed(before: nn.Module, after: nn.Module | None) -> set[str]:
    """The names of weights that are not what they were."""
    assert after is not None
    old, new = before.state_dict(), after.state_dict()
    assert old.keys() == new.keys()  # plain weights again, whatever was beside them
    return {name for name in old if not torch.equal(old[name], new[name])}


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"train": "last", "layers": 1}, "model.encoder.layer.1."),
        ({"train": "lora", "lora": {"rank": 2}}, "model.encoder.layer."),
        ({"train": "all"}, "model."),
    ],
)
def test_only_what_the_recipe_names_learns(
    table: Mapping[str, Any], expected: str, tiny: Prepared
) -> None:
    pretrained = {name: value.clone() for name, value in tiny.text.module.state_dict().items()}
    trained = train_fold(tuned(tiny, text=table), fold=0, seed=0)
    names = changed(tiny.text.module, trained.text_encoder)
    assert names
    assert all(name.startswith(expected) for name in names)
    if table["train"] == "lora":
        assert all(name.endswith("weight") and "Norm" not in name for name in names)
        assert len(names) == 2 * 6  # query, key, value, and three more of each layer
    if table["train"] == "all":
        assert any("embeddings" in name for name in names)
    assert trained.image_encoder is None
    for name, value in tiny.text.module.state_dict().items():
        assert torch.equal(value, pretrained[name])  # the next seed starts where this one did


def test_pictures_encoder_learns_and_keeps_its_statistics(tiny: Prepared) -> None:
    trained = train_fold(tuned(tiny, image={"train": "last", "layers": 1}), fold=0, seed=0)
    names = changed(tiny.image.module, trained.image_encoder)
    assert names
    assert all(name.startswith("model.encoder.stages.1.") for name in names)
    assert not any("running" in name or "num_batches" in name for name in names)


def test_models_of_one_modality_train_their_own_encoder(tiny: Prepared) -> None:
    both = tuned(tiny, text={"train": "all"}, image={"train": "all"})
    trained = train_fold(both, fold=0, seed=0, kind="text")
    assert trained.text_encoder is not None
    assert trained.image_encoder is None


def test_frozen_parts_neither_drop_nor_learn(tiny: Prepared) -> None:
    own = trainable_copy(tiny.text.module, EncoderTable(train="last", layers=1), "text_encoder")
    set_training(own, True)
    training = {name for name, module in own.named_modules() if module.training}
    assert "model.encoder.layer.1.output.dropout" in training
    assert not any("embeddings" in name or "layer.0" in name for name in training)
    set_training(own, False)
    assert not any(module.training for module in own.modules())


def test_merged_lora_answers_as_before(tiny: Prepared) -> None:
    own = trainable_copy(tiny.text.module, EncoderTable(train="lora"), "text_encoder")
    for name, weight in own.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    ids = torch.tensor([[101, 2000, 3000, 102]])
    with torch.no_grad():
        apart, plain = own(ids, torch.ones_like(ids)), tiny.text.module(ids, torch.ones_like(ids))
        merged = merge_lora(own)(ids, torch.ones_like(ids))
    assert float((apart - plain).abs().max()) > 0.01
    torch.testing.assert_close(merged, apart, atol=1e-5, rtol=1e-5)


def test_layers_that_are_not_there_are_refused(tiny: Prepared) -> None:
    with pytest.raises(RecipeError, match=r"text_encoder\.layers: 3, and the encoder has 2; give"):
        train_fold(tuned(tiny, text={"train": "last", "layers": 3}), fold=0, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_encoder": {"layers": 1}}, 'layers is for train = "last", and train is "none"'),
        ({"text_encoder": {"train": "all", "lora": {"rank": 2}}}, 'lora is for train = "lora"'),
        ({"augmentation": {"flip": True}}, r"set image_encoder\.train, or take that augmentation"),
        ({"augmentation": {"token_dropout": 0.1}}, r"set text_encoder\.train"),
        ({"optimiser": {"head_epochs": 3}}, "head_epochs is for encoders that learn"),
        (
            {"text_encoder": {"train": "all"}, "ensemble": {"kind": "bagging"}},
            "ensemble's members share frozen encoders",
        ),
    ],
)
def test_recipes_that_mean_nothing_are_refused(
    changes: Mapping[str, Mapping[str, Any]], message: str, tiny: Prepared
) -> None:
    content = tiny.recipe.model_dump()
    for table, own in changes.items():
        content[table] = {**(content[table] or {}), **own}
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate(content)


def test_a_fine_tuned_bundle_answers_what_was_trained_and_builds(
    tiny: Prepared, tmp_path: Path
) -> None:
    """Export and parity meet plain weights; both encoders are the bundle's own."""
    both = tuned(tiny, text={"train": "lora"}, image={"train": "last", "layers": 1})
    shipped, report = train_seeds(both)
    bundle = write_bundle(both, shipped, tmp_path / "bundle", report=report)
    release = build(bundle, target="onnxruntime", repository=tmp_path / "repository")
    assert release.number == 1
    kept = load_file(bundle.folder / "text_encoder" / "model.safetensors")
    assert shipped.text_encoder is not None
    assert shipped.image_encoder is not None
    assert set(kept) == set(shipped.text_encoder.state_dict())
    assert not torch.equal(*(
        weights["model.encoder.layer.1.output.dense.weight"]
        for weights in (kept, both.text.module.state_dict())
    ))  # fmt: skip
    model = FusionModel(
        shipped.text_encoder, shipped.image_encoder, shipped.head,
        truncating_tokenizer(both.text), both.text.preprocessing, both.image.preprocessing,
    )  # fmt: skip
    sample, key = bundle.validation[0], modalities_key(("text", "image"))
    answer = model.answer(sample.text, sample.image, [("text", "image")])
    np.testing.assert_allclose(answer.values[key], shipped.probabilities[key][0], atol=1e-4)


@pytest.mark.parametrize("strategy", ["late", "cross_modal_transformer"])
def test_encoders_learn_below_other_heads(strategy: str, tiny: Prepared) -> None:
    """Stages that see one modality each; tokens of unequal texts beside each other."""
    if strategy == "late":
        prepared = tiny
    else:
        text = replace(tiny.text, module=HuggingFaceTextEncoder(tiny.text.module.model, "none"))
        image = type(tiny.image.module)(tiny.image.module.model, "none")  # type: ignore[arg-type]
        prepared = sequences(replace(tiny, text=text, image=replace(tiny.image, module=image)))
    prepared = tuned(
        prepared, fusion={"strategy": strategy}, text={"train": "all"}, image={"train": "all"}
    )
    trained = train_fold(prepared, fold=0, seed=0)
    assert isinstance(trained.head, FUSION_HEADS[strategy])
    assert changed(tiny.text.module, trained.text_encoder)
    assert changed(tiny.image.module, trained.image_encoder)


def test_a_hybrids_members_read_the_encoders_that_learned(tiny: Prepared) -> None:
    """One encoder of each modality goes into a bundle: all members were trained on what it says."""
    hybrid = tuned(tiny, fusion={"hybrid": True}, text={"train": "all"})
    trained = train_fold(hybrid, fold=0, seed=0)
    assert trained.text_encoder is not None
    model = FusionModel(
        trained.text_encoder, tiny.image.module, trained.head, truncating_tokenizer(tiny.text),
        tiny.text.preprocessing, tiny.image.preprocessing,
    )  # fmt: skip
    item = tiny.dataset.items[trained.held_out[0]]
    answer = model.answer(item.text, item.read_image(), [("text",)]).values["text"]
    np.testing.assert_allclose(answer, trained.probabilities["text"][0], atol=1e-4)
    frozen = train_fold(tuned(tiny, fusion={"hybrid": True}), fold=0, seed=0)
    assert not torch.equal(weights_of_text(trained.head), weights_of_text(frozen.head))


def weights_of_text(head: nn.Module) -> torch.Tensor:
    assert isinstance(head, HybridFusion)
    return torch.cat([weight.flatten() for weight in head.text.parameters()])


def sequences(prepared: Prepared) -> Prepared:
    content = prepared.recipe.model_dump()
    content["text_encoder"]["pooling"] = content["image_encoder"]["pooling"] = "none"
    content["fusion"]["strategy"] = "cross_modal_transformer"
    return replace(
        prepared,
        recipe=Recipe.model_validate(content),
        features=compute_features(prepared.dataset, prepared.text, prepared.image),
    )


def test_a_head_that_is_trained_first_is_never_made_worse(tiny: Prepared) -> None:
    """Rates that would ruin everything: the best is then what there was before."""
    frozen = train_fold(tuned(tiny), fold=0, seed=0)
    ruined: dict[str, float] = {"head_epochs": tiny.recipe.optimiser.max_epochs, "max_epochs": 1}
    ruined["encoder_learning_rate"] = 1.0
    trained = train_fold(tuned(tiny, text={"train": "all"}, optimiser=ruined), fold=0, seed=0)
    assert trained.validation_loss == pytest.approx(frozen.validation_loss, rel=1e-4)


def network_of(tiny: Prepared, **tables: EncoderTable) -> FusionNetwork:
    head = FUSION_HEADS["concat"](
        text_features=32, image_features=16, labels=3, dropout=0.0, modality_dropout=0.0
    )
    text, image = tables.get("text"), tables.get("image")
    return FusionNetwork(
        head,
        None if text is None else trainable_copy(tiny.text.module, text, "text_encoder"),
        None if image is None else trainable_copy(tiny.image.module, image, "image_encoder"),
        tiny.image.preprocessing,
    )


def test_rates_fall_with_depth_and_norms_do_not_decay(tiny: Prepared) -> None:
    network = network_of(tiny, text=EncoderTable(train="all"))
    table = OptimiserTable(learning_rate=1e-2, layer_decay=0.5, weight_decay=0.1)
    names = {id(weight): name for name, weight in network.named_parameters()}
    found = {
        names[id(weight)]: (group["peak"], group["weight_decay"])
        for group in parameter_groups(network, table)
        for weight in group["params"]
    }
    assert set(found) == set(names.values())
    prefix = "text_encoder.model"
    layer = f"{prefix}.encoder.layer"
    assert found["head.classifier.0.weight"] == (1e-2, 0.1)
    assert found["head.classifier.0.bias"] == (1e-2, 0.1)
    assert found[f"{layer}.1.output.dense.weight"] == (ENCODER_RATE, 0.1)
    assert found[f"{layer}.1.output.dense.bias"] == (ENCODER_RATE, 0)
    assert found[f"{layer}.0.output.LayerNorm.weight"] == (ENCODER_RATE / 2, 0)
    assert found[f"{prefix}.embeddings.word_embeddings.weight"] == (ENCODER_RATE / 4, 0.1)
    without = parameter_groups(network, OptimiserTable(decay_biases=False))
    assert {group["weight_decay"] for group in without[:2]} == {0.01, 0}
    (lora,) = parameter_groups(network_of(tiny, text=EncoderTable(train="lora")), OptimiserTable())[
        1:
    ]
    assert lora["peak"] == LORA_RATE


def test_rates_rise_and_fall() -> None:
    table = OptimiserTable(warmup=0.1, schedule="cosine")
    factors = [rate_factor(step, 100, table) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[99] < 0.001
    assert {rate_factor(step, 100, OptimiserTable()) for step in range(100)} == {1.0}


def test_a_step_in_parts_is_the_same_step(tiny: Prepared) -> None:
    """Without dropout, and with plain gradient descent, which is linear in the gradient."""
    still = {"dropout": 0.0, "modality_dropout": 0.0}
    once = {"kind": "sgd", "learning_rate": 0.1, "max_epochs": 2}
    whole, parts = (
        train_fold(
            tuned(tiny, image={"train": "all"}, fusion=still, optimiser=once | how), fold=0, seed=0
        )
        for how in ({}, {"gradient_accumulation": 3})
    )
    for one, other in zip(
        whole.head.state_dict().values(), parts.head.state_dict().values(), strict=True
    ):
        # Smaller batches add up in another order: 8e-5 was seen; parts weighed wrongly make 1e-3.
        torch.testing.assert_close(one, other, atol=5e-4, rtol=0)


def test_gradients_are_clipped(tiny: Prepared) -> None:
    """Plain steps of length <= rate x clip: a tiny clip moves nothing far."""
    how = {"kind": "sgd", "momentum": 0.0, "weight_decay": 0.0, "learning_rate": 1.0}
    how |= {"max_epochs": 1, "batch_size": 1000, "gradient_clip": 1e-3}
    trained = train_fold(tuned(tiny, optimiser=how), fold=0, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = type(trained.head)(**trained.head.config()).state_dict()
    moved = sum(float((fresh[name] - value).pow(2).sum()) for name, value in
                trained.head.state_dict().items()) ** 0.5  # fmt: skip
    assert 0 < moved <= 1.001e-3


def test_mixup_changes_training_and_not_the_answers_form(tiny: Prepared) -> None:
    plain, mixed = (
        train_fold(tuned(tiny, optimiser={"mixup": alpha}), fold=0, seed=0) for alpha in (0.0, 0.4)
    )
    assert mixed.history[0][0].training_loss != plain.history[0][0].training_loss
    assert mixed.probabilities.keys() == plain.probabilities.keys()


def test_early_stopping_keeps_the_epoch_with_the_best_figure(tiny: Prepared) -> None:
    trained = train_fold(tuned(tiny, optimiser={"metric": "accuracy"}), fold=0, seed=0)
    scores = [epoch.score for epoch in trained.history[0]]
    assert trained.epochs == 1 + scores.index(max(scores))
    assert trained.validation_accuracy == pytest.approx(max(scores))


def test_figures_to_watch_are_the_tasks_own(tiny: Prepared) -> None:
    objective = make_objective(tiny.recipe, tiny.dataset, tiny.features)
    targets = torch.tensor([0, 0, 0, 1, 2])
    logits = nn.functional.one_hot(torch.zeros(5, dtype=torch.int64), 3).float()
    assert objective.figure("accuracy", logits, targets) == pytest.approx(0.6)
    assert objective.figure("macro_f1", logits, targets) == pytest.approx(0.25)
    with pytest.raises(RecipeError, match=r"'R2' is no figure of this task; use \"loss\" or"):
        objective.figure("R2", logits, targets)


def test_bf16_where_it_is_asked_for_or_the_hardware_has_it(
    tiny: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen, learning = network_of(tiny), network_of(tiny, text=EncoderTable(train="all"))
    for there in (True, False):
        monkeypatch.setattr("tritium_builders.cpu.has_bf16", lambda there=there: there)
        for network, table, expected in (
            (learning, OptimiserTable(), there),
            (frozen, OptimiserTable(), False),
            (learning, OptimiserTable(precision="fp32"), False),
            (frozen, OptimiserTable(precision="bf16"), True),
        ):
            with computing_in(table, network):
                assert torch.is_autocast_enabled("cpu") == expected
    exact, quick = (
        train_fold(tuned(tiny, text={"train": "all"}, optimiser={"precision": how}), fold=0, seed=0)
        for how in ("fp32", "bf16")
    )
    assert changed(tiny.text.module, quick.text_encoder)
    assert quick.probabilities["text"].dtype == np.float32
    assert exact.history[0][0].training_loss != quick.history[0][0].training_loss
    assert exact.history[0][0].training_loss == pytest.approx(
        quick.history[0][0].training_loss, rel=0.05
    )


def test_a_feed_takes_features_of_what_is_frozen(tiny: Prepared) -> None:
    feed = Feed(tiny.features, [item.id for item in tiny.dataset.items])
    own = feed.take(torch.tensor([3, 1]))
    assert torch.equal(own.text, tiny.features.text[[3, 1]])
    assert torch.equal(own.image, tiny.features.image[[3, 1]])
