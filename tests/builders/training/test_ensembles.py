"""`[ensemble]`: what its members are trained on, and how their answers become one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.builders.training.conftest import RECIPE
from tritium_builders.models import EnsembleHead
from tritium_builders.training import Recipe, ensembles
from tritium_builders.training.folds import Prepared, TrainedFold, fit_head, train_fold
from tritium_builders.training.recipe import EnsembleTable
from tritium_builders.training.splits import Split
from tritium_builders.training.stacking import fit_regression


def with_ensemble(prepared: Prepared, **settings: Any) -> Prepared:
    table = EnsembleTable(**{"members": 2, **settings})
    optimiser = prepared.recipe.optimiser.model_copy(update={"max_epochs": 4})
    changes = {"ensemble": table, "optimiser": optimiser}
    return replace(prepared, recipe=prepared.recipe.model_copy(update=changes))


def train(prepared: Prepared, **settings: Any) -> tuple[TrainedFold, EnsembleHead]:
    trained = train_fold(with_ensemble(prepared, **settings), fold=0, seed=5)
    assert isinstance(trained.head, EnsembleHead)
    return trained, trained.head


def held_out(prepared: Prepared, trained: TrainedFold) -> tuple[torch.Tensor, torch.Tensor]:
    features = prepared.features.select(torch.tensor(trained.held_out))
    return features.text, features.image


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("average", marks=pytest.mark.full),
        pytest.param("bagging", marks=pytest.mark.full),
        "boosting",
        "stacking",
    ],
)
def test_it_learns_answers_without_a_modality_and_is_the_same_again(
    kind: str, prepared: Prepared
) -> None:
    trained, head = train(prepared, kind=kind, folds=2)
    assert trained.accuracy(prepared.dataset) > 0.45  # chance is a quarter
    for values in trained.probabilities.values():
        np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)
    assert trained.accuracy(prepared.dataset, "text") > 0.45
    again, _ = train(prepared, kind=kind, folds=2)
    for name, tensor in head.state_dict().items():
        assert torch.equal(again.head.state_dict()[name], tensor), name


def test_members_take_the_strategies_in_turn(prepared: Prepared) -> None:
    _, head = train(prepared, kind="average", members=3, strategies=["concat", "late"])
    assert [member["kind"] for member in head.config()["members"]] == ["concat", "late", "concat"]


def test_bagging_draws_whole_groups_of_the_training_side(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Split] = []
    fit = fit_head

    def watch(own: Prepared, head: Any, objective: Any, split: Split) -> Any:
        seen.append(split)
        return fit(own, head, objective, split)

    monkeypatch.setattr(ensembles, "fit_head", watch)
    train(prepared, kind="bagging")
    whole = prepared.split(0)
    assert len(seen) == 2
    for split in seen:
        counts = dict(zip(*np.unique(split.train, return_counts=True), strict=True))
        assert set(counts) < set(whole.train.tolist())
        assert max(counts.values()) > 1
        by_group: dict[str, set[int]] = {}
        for index in whole.train.tolist():
            by_group.setdefault(prepared.dataset.groups[index], set()).add(counts.get(index, 0))
        assert all(len(own) == 1 for own in by_group.values())
        np.testing.assert_array_equal(split.validation, whole.validation)
    assert len({tuple(split.train.tolist()) for split in seen}) == 2


def test_boosting_adds_logits_and_stops_when_nothing_is_gained(prepared: Prepared) -> None:
    trained, head = train(prepared, kind="boosting", members=4, rate=0.25)
    text, image = held_out(prepared, trained)
    with torch.inference_mode():
        logits = head.member_logits(text, image)
        rates = torch.tensor([1.0, *[0.25] * (len(head.members) - 1)])
        expected = (rates[:, None] * logits).sum(1).softmax(-1).numpy()
    np.testing.assert_allclose(trained.probabilities["text,image"], expected, atol=1e-6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensembles, "LEAST_GAIN", 1e9)
        assert len(train(prepared, kind="boosting", members=4)[1].members) == 1


def test_stacking_fits_to_answers_of_members_that_never_saw_the_item(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[frozenset[int]] = []
    fit = fit_head

    def watch(own: Prepared, head: Any, objective: Any, split: Split) -> Any:
        fitted.append(frozenset(split.train.tolist()))
        return fit(own, head, objective, split)

    monkeypatch.setattr(ensembles, "fit_head", watch)
    train(prepared, kind="stacking", members=2, folds=3)
    whole = frozenset(prepared.split(0).train.tolist())
    assert fitted.count(whole) == 2
    parts = [whole - one for one in fitted if one != whole]
    for own in (parts[:3], parts[3:]):  # of each member
        assert sorted(index for part in own for index in part) == sorted(whole)
    groups = prepared.dataset.groups
    assert all(not {groups[i] for i in part} & {groups[i] for i in whole - part} for part in parts)


def test_held_out_items_choose_nothing(prepared: Prepared) -> None:
    """Spoiling everything that is held out changes not one weight."""
    split = prepared.split(0)
    spoiled = torch.from_numpy(split.held_out)
    text, image = prepared.features.text.clone(), prepared.features.image.clone()
    text[spoiled], image[spoiled] = 1e3, -1e3
    other = replace(prepared, features=replace(prepared.features, text=text, image=image))
    other.keep_split(0, split)
    (_, one), (_, two) = (train(own, kind="stacking", folds=2) for own in (prepared, other))
    for name, tensor in one.state_dict().items():
        assert torch.equal(two.state_dict()[name], tensor), name


def test_a_regression_learns_whom_to_trust_and_never_answers_what_does_not_occur() -> None:
    torch.manual_seed(0)
    targets = torch.randint(3, (300,))
    good = torch.nn.functional.one_hot(targets, 4) * 3 + torch.randn(300, 4)
    logits = torch.stack([torch.randn(300, 4) * 3, good], 1)
    inputs = logits.log_softmax(-1).flatten(1)
    for watched in (None, (inputs[200:], targets[200:])):
        coefficients, biases = fit_regression(
            inputs[:200], targets[:200], labels=4, watched=watched
        )
        answers = inputs[200:] @ coefficients.T + biases
        right = (answers.argmax(-1) == targets[200:]).float().mean()
        assert right > (good[200:].argmax(-1) == targets[200:]).float().mean() - 0.05
        assert not (answers.argmax(-1) == 3).any()
    two, biases = fit_regression(inputs[:50], targets[:50].clamp(max=1), labels=2)
    assert (
        (inputs[:50] @ two.T + biases).argmax(-1) == targets[:50].clamp(max=1)
    ).float().mean() > 0.8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ensemble": {"kind": "boosting", "strategies": ["late"]}}, "adds logits"),
        (
            {"ensemble": {"kind": "average", "strategies": ["cross_modal_transformer"]}},
            "read different features",
        ),
        (
            {
                "ensemble": {"kind": "average", "strategies": ["cross_attention"]},
                "fusion": {"width": 30},
            },
            "multiple of fusion.heads",
        ),
        ({"ensemble": {"kind": "voting"}}, "Input should be 'average', 'bagging'"),
    ],
)
def test_ensembles_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate({**RECIPE.model_dump(), **changes})
