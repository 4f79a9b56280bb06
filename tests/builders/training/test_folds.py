"""Training one head: reproducible, honest about what it saw, and complete without a modality."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tritium_builders.models import (
    CrossAttentionFusion,
    FusionHead,
    HuggingFaceImageEncoder,
    HuggingFaceTextEncoder,
    SequenceCrossAttentionFusion,
)
from tritium_builders.training.features import compute_features
from tritium_builders.training.folds import Prepared, train_fold


def weights(head: FusionHead) -> torch.Tensor:
    return torch.cat([tensor.flatten().float() for tensor in head.state_dict().values()])


def with_fusion(prepared: Prepared, **changes: object) -> Prepared:
    fusion = prepared.recipe.fusion.model_copy(update=changes)
    return replace(prepared, recipe=prepared.recipe.model_copy(update={"fusion": fusion}))


def test_the_same_seed_gives_the_same_weights(prepared: Prepared) -> None:
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


def test_the_held_out_fold_and_its_labels_are_not_used(prepared: Prepared) -> None:
    """Spoiling everything that is held out changes not one weight."""
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


def test_cross_attention_trains(prepared: Prepared) -> None:
    trained = train_fold(with_fusion(prepared, strategy="cross_attention"), fold=0, seed=0)
    assert isinstance(trained.head, CrossAttentionFusion)
    assert trained.accuracy(prepared.dataset) > 0.5


def test_cross_attention_over_sequences_trains(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
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
        with_fusion(prepared, strategy="sequence_cross_attention"),
        text=text,
        image=image,
        features=compute_features(prepared.dataset, text, image),
    )
    trained = train_fold(sequences, fold=0, seed=0)
    assert isinstance(trained.head, SequenceCrossAttentionFusion)
    assert trained.accuracy(prepared.dataset) > 0.5
    assert set(trained.probabilities) == {"text,image", "text", "image"}


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
