"""Training one head: reproducible, honest about what it saw, and complete without a modality."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tritium_builders.models import (
    FUSION_HEADS,
    FusionHead,
    HuggingFaceImageEncoder,
    HuggingFaceTextEncoder,
    HybridFusion,
    LateFusion,
)
from tritium_builders.models.fusion.base import BOTH
from tritium_builders.training.features import compute_features
from tritium_builders.training.folds import Prepared, train_fold
from tritium_builders.training.network import answers_of
from tritium_builders.training.recipe import OVER_SEQUENCES

POOLED = sorted(FUSION_HEADS.keys() - OVER_SEQUENCES)


def weights(head: FusionHead) -> torch.Tensor:
    return torch.cat([tensor.flatten().float() for tensor in head.state_dict().values()])


def with_fusion(prepared: Prepared, **changes: object) -> Prepared:
    fusion = prepared.recipe.fusion.model_copy(update=changes)
    return replace(prepared, recipe=prepared.recipe.model_copy(update={"fusion": fusion}))


@pytest.mark.parametrize("strategy", POOLED)
def test_the_same_seed_gives_the_same_weights(strategy: str, prepared: Prepared) -> None:
    prepared = with_fusion(prepared, strategy=strategy)
    first = train_fold(prepared, fold=0, seed=7)
    torch.rand(5)  # what somebody else drew in between changes nothing
    again, other = (train_fold(prepared, fold=0, seed=seed) for seed in (7, 8))
    assert torch.equal(weights(first.head), weights(again.head))
    assert not torch.equal(weights(first.head), weights(other.head))


def test_training_leaves_torchs_settings_alone(prepared: Prepared) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    train_fold(prepared, fold=0, seed=0)
    assert torch.equal(torch.rand(3), expected)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_a_hybrid_loses_nothing_to_models_of_one_modality(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a modality absent it is such a model: trained alike, on the same items."""
    both = with_fusion(prepared, hybrid=True)
    hybrid = train_fold(both, fold=0, seed=0)
    assert isinstance(hybrid.head, HybridFusion)
    assert float(hybrid.head.weights.sum()) == pytest.approx(1)
    for kind in BOTH:
        own = answers_of(getattr(hybrid.head, kind), prepared.features, [(kind,)])[kind,]
        expected = own[list(hybrid.held_out)].softmax(-1).numpy()
        np.testing.assert_allclose(hybrid.probabilities[kind], expected, atol=1e-6)
        alone = train_fold(prepared, fold=0, seed=0, kind=kind)
        np.testing.assert_array_equal(hybrid.probabilities[kind], alone.probabilities[kind])
        with monkeypatch.context() as patch:  # the member that is there is not trained again
            patch.delattr("tritium_builders.training.folds.fit")
            member = train_fold(both, fold=0, seed=0, kind=kind)
        assert (member.epochs, member.history) == (alone.epochs, alone.history)
        np.testing.assert_array_equal(member.probabilities[kind], alone.probabilities[kind])
    late = train_fold(with_fusion(prepared, hybrid=True, strategy="late"), fold=0, seed=0)
    assert isinstance(late.head, LateFusion)  # which is one already


def test_it_learns_and_answers_with_either_modality(prepared: Prepared) -> None:
    trained = train_fold(prepared, fold=0, seed=0)
    assert set(trained.probabilities) == {"text,image", "text", "image"}
    for values in trained.probabilities.values():
        assert values.shape == (len(trained.held_out), len(prepared.dataset.labels))
        np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)
    assert trained.accuracy(prepared.dataset) > 0.5  # chance is a quarter
    assert trained.accuracy(prepared.dataset, "text") > 0.5


def test_probabilities_are_the_heads_in_evaluation_mode(prepared: Prepared) -> None:
    trained = train_fold(prepared, fold=1, seed=0)
    features = prepared.features.select(torch.tensor(trained.held_out))
    assert not trained.head.training
    with torch.inference_mode():
        expected = trained.head(features.text, None).softmax(-1).numpy()
    np.testing.assert_allclose(trained.probabilities["text"], expected, atol=1e-6)


@pytest.mark.parametrize("strategy", ["concat", "late"])
def test_the_held_out_fold_and_its_labels_are_not_used(strategy: str, prepared: Prepared) -> None:
    """Spoiling everything that is held out changes not one weight."""
    prepared = with_fusion(prepared, strategy=strategy)
    split = prepared.split(0)
    held_out = torch.from_numpy(split.held_out)
    text, image = prepared.features.text.clone(), prepared.features.image.clone()
    text[held_out], image[held_out] = float("nan"), float("nan")
    spoilt = replace(prepared, features=replace(prepared.features, text=text, image=image))
    first, again = (train_fold(one, fold=0, seed=0) for one in (prepared, spoilt))
    assert torch.equal(weights(first.head), weights(again.head))


@pytest.mark.parametrize("kind", ["text", "image"])
def test_single_modality_heads_answer_for_their_modality(kind: str, prepared: Prepared) -> None:
    trained = train_fold(prepared, fold=0, seed=0, kind="text" if kind == "text" else "image")
    assert set(trained.probabilities) == {kind}


def test_every_item_is_held_out_once_over_all_folds(prepared: Prepared) -> None:
    held = [
        index for fold in range(3) for index in train_fold(prepared, fold=fold, seed=0).held_out
    ]
    assert sorted(held) == list(range(len(prepared.dataset.items)))


@pytest.mark.parametrize("strategy", POOLED)
def test_every_strategy_trains(strategy: str, prepared: Prepared) -> None:
    trained = train_fold(with_fusion(prepared, strategy=strategy), fold=0, seed=0)
    assert trained.head.kind == strategy
    assert trained.accuracy(prepared.dataset) > 0.5
    assert trained.accuracy(prepared.dataset, "text") > 0.4


def test_settings_reach_the_head(prepared: Prepared) -> None:
    changed = with_fusion(prepared, strategy="low_rank_bilinear", rank=7, width=24)
    config = train_fold(changed, fold=0, seed=0).head.config()
    assert (config["rank"], config["width"], config["hidden"]) == (7, 24, 32)
    changed = with_fusion(prepared, strategy="hierarchical", layers=3)
    assert train_fold(changed, fold=0, seed=0).head.config()["layers"] == 3


def with_telling_images(prepared: Prepared, misleading: Any = ()) -> Prepared:
    """Pictures that often say what their item is; of some items, what another one is."""
    drawn = torch.Generator().manual_seed(0)
    shown = torch.tensor(prepared.dataset.targets)
    misled = torch.tensor(misleading, dtype=torch.int64)
    shown[misled] = (shown[misled] + 1) % len(prepared.dataset.labels)
    codes = torch.randn(len(prepared.dataset.labels), 32, generator=drawn)
    image = codes[shown] + 0.5 * torch.randn(len(shown), 32, generator=drawn)
    return replace(prepared, features=replace(prepared.features, image=image))


def test_late_fusions_weight_is_tuned_on_the_validation_side_only(prepared: Prepared) -> None:
    """Pictures that mislead there, and there alone, cost the image its weight."""
    late = with_fusion(prepared, strategy="late")
    split = prepared.split(0)

    def text_weight(misleading: Any = ()) -> float:
        head = train_fold(with_telling_images(late, misleading), fold=0, seed=0).head
        assert isinstance(head, LateFusion)
        return float(head.text_weight)

    usual = text_weight()
    assert 0 < usual < 0.9
    assert text_weight(split.held_out) == usual
    assert text_weight(split.validation) > max(usual + 0.1, 0.8)


def test_late_fusions_branches_learn_apart(prepared: Prepared) -> None:
    """What the pictures show changes nothing in the text's classifier."""
    late = with_fusion(prepared, strategy="late")
    blank = replace(late.features, image=torch.zeros_like(late.features.image))
    first, second = (
        train_fold(one, fold=0, seed=0) for one in (late, replace(late, features=blank))
    )
    np.testing.assert_array_equal(first.probabilities["text"], second.probabilities["text"])


def patient(prepared: Prepared) -> Prepared:
    """A transformer learns the little data that there is here slowly."""
    table = prepared.recipe.optimiser.model_copy(update={"max_epochs": 40, "patience": 10})
    return replace(prepared, recipe=prepared.recipe.model_copy(update={"optimiser": table}))


@pytest.mark.parametrize("strategy", sorted(OVER_SEQUENCES))
def test_heads_over_sequences_train(
    strategy: str,
    prepared: Prepared,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    text, image = (
        replace(prepared.text, module=HuggingFaceTextEncoder(prepared.text.module.model, "none")),
        replace(
            prepared.image,
            module=HuggingFaceImageEncoder(prepared.image.module.model, "none"),  # type: ignore[arg-type]
        ),
    )
    sequences = replace(
        with_fusion(patient(prepared), strategy=strategy),
        text=text,
        image=image,
        features=compute_features(prepared.dataset, text, image),
    )
    trained = train_fold(sequences, fold=0, seed=0)
    assert trained.head.kind == strategy
    assert trained.accuracy(prepared.dataset) > 0.5
    assert set(trained.probabilities) == {"text,image", "text", "image"}
    # What it is compared with reads the mean of the same tokens.
    alone = train_fold(sequences, fold=0, seed=0, kind="text")
    assert alone.accuracy(prepared.dataset, "text") > 0.5


def test_absent_loss_trains_the_absent_modalities(prepared: Prepared) -> None:
    """Without dropout and without that loss, a head never meets an absent modality."""
    plain, taught = (
        train_fold(with_fusion(prepared, modality_dropout=0.0, absent_loss=weight), fold=0, seed=0)
        for weight in (0.0, 1.0)
    )
    targets = np.asarray(prepared.dataset.targets)[list(plain.held_out)]

    def loss_without_text(probabilities: np.ndarray) -> float:  # type: ignore[type-arg]
        return float(-np.log(probabilities[range(len(targets)), targets]).mean())

    assert loss_without_text(taught.probabilities["image"]) < loss_without_text(
        plain.probabilities["image"]
    )
