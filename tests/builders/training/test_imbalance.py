"""Rare labels: what each strategy makes of losses and draws, and that training shows it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.builders.training.conftest import RECIPE
from tritium_builders.training.folds import Prepared, train_fold
from tritium_builders.training.imbalance import Balance
from tritium_builders.training.recipe import ImbalanceTable, Recipe
from tritium_builders.training.splits import Split

TARGETS = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
"""Label 2 is six times as rare as label 0."""


def balance(strategy: Any, targets: torch.Tensor = TARGETS, **settings: Any) -> Balance:
    return Balance.of(ImbalanceTable(strategy=strategy, **settings), targets, 3)


def some_logits(rows: int) -> torch.Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))


def test_weights_even_labels_out_and_keep_the_mean() -> None:
    found = balance("weighted_loss").weights
    assert found is not None
    torch.testing.assert_close(found * torch.tensor([60.0, 30, 10]), torch.full((3,), 100 / 3))
    assert float(found[TARGETS].mean()) == pytest.approx(1)


def test_effective_numbers_are_those_of_the_paper() -> None:
    found = balance("weighted_loss", weights="effective", beta=0.9).weights
    assert found is not None
    expected = [(1 - 0.9) / (1 - 0.9**count) for count in (60, 30, 10)]
    assert float(found[2] / found[0]) == pytest.approx(expected[2] / expected[0], rel=1e-5)
    near_one = balance("weighted_loss", weights="effective", beta=1 - 1e-9).weights
    assert near_one is not None
    torch.testing.assert_close(near_one, balance("weighted_loss").weights)


def test_a_weighted_loss_counts_each_label_the_same() -> None:
    logits = some_logits(100)
    losses = functional.cross_entropy(logits, TARGETS, reduction="none")
    by_label = torch.stack([losses[label == TARGETS].mean() for label in range(3)])
    found = balance("weighted_loss").cross_entropy(logits, TARGETS)
    torch.testing.assert_close(found, by_label.mean())


def test_focal_loss_is_that_of_the_paper() -> None:
    logits = some_logits(100)
    right = logits.softmax(-1)[torch.arange(100), TARGETS]
    expected = -((1 - right) ** 2 * right.log()).mean()
    torch.testing.assert_close(
        balance("focal_loss", gamma=2).cross_entropy(logits, TARGETS), expected
    )
    plain = functional.cross_entropy(logits, TARGETS, label_smoothing=0.1)
    without = balance("focal_loss", gamma=0).cross_entropy(logits, TARGETS, smoothing=0.1)
    torch.testing.assert_close(without, plain)


def test_adjusted_logits_are_even_where_the_label_shares_are_all_that_is_known() -> None:
    """The best constant logits under the adjusted loss are equal, and not the label shares."""
    logits = torch.zeros(3, requires_grad=True)
    loss: Any = balance("logit_adjustment").cross_entropy(logits.expand(100, 3), TARGETS)
    loss.backward()
    torch.testing.assert_close(logits.grad, torch.zeros(3), atol=1e-6, rtol=0)
    half = balance("logit_adjustment", tau=0.5).cross_entropy(torch.zeros(100, 3), TARGETS)
    shares = torch.tensor([0.6, 0.3, 0.1])
    expected = functional.cross_entropy((0.5 * shares.log()).expand(100, 3), TARGETS)
    torch.testing.assert_close(half, expected)


def test_resampling_draws_labels_alike_and_others_take_every_item_once() -> None:
    torch.manual_seed(0)
    train = torch.arange(100).repeat(30)
    drawn = balance("resampling").epoch(train, TARGETS.repeat(30))
    shares = torch.bincount(TARGETS[drawn], minlength=3) / len(drawn)
    assert len(drawn) == len(train)
    np.testing.assert_allclose(shares, np.full(3, 1 / 3), atol=0.03)
    once = balance("weighted_loss").epoch(torch.arange(100), TARGETS)
    assert sorted(once.tolist()) == list(range(100))


@pytest.mark.parametrize("strategy", ["weighted_loss", "resampling", "logit_adjustment"])
def test_early_stopping_watches_labels_alike(strategy: str) -> None:
    """An answer that forgets the rare label is watched as worse than one that does not."""
    frequent = torch.tensor([[0.6, 0.3, 0.1]]).log().expand(100, 3)
    even = torch.zeros(100, 3)
    plain = functional.cross_entropy
    assert plain(frequent, TARGETS) < plain(even, TARGETS)
    watched = balance(strategy).validation_cross_entropy
    assert watched(frequent, TARGETS) > watched(even, TARGETS)
    assert balance("focal_loss").validation_cross_entropy(even, TARGETS) == plain(even, TARGETS)


def test_of_several_labels_yes_and_no_are_evened_out() -> None:
    targets = functional.one_hot(TARGETS, 3).float()
    logits = torch.zeros(3, requires_grad=True)
    for strategy in ("weighted_loss", "logit_adjustment"):
        # Only a label's share is known: "as likely as not" is the best answer, for every label.
        loss: Any = balance(strategy, targets).binary_cross_entropy(logits.expand(100, 3), targets)
        loss.backward()
        torch.testing.assert_close(logits.grad, torch.zeros(3), atol=1e-6, rtol=0)
    some = some_logits(100)
    right = torch.where(targets > 0.5, some.sigmoid(), 1 - some.sigmoid())
    torch.testing.assert_close(
        balance("focal_loss", targets).binary_cross_entropy(some, targets),
        -((1 - right) ** 2 * right.log()).mean(),
    )
    none = balance("none", targets).binary_cross_entropy(some, targets)
    assert none == functional.binary_cross_entropy_with_logits(some, targets)


def test_of_several_labels_what_is_watched_counts_as_training_does() -> None:
    targets = functional.one_hot(TARGETS, 3).float()
    rare_forgotten, even = torch.tensor([[0.4, -0.85, -2.2]]).expand(100, 3), torch.zeros(100, 3)
    plain = functional.binary_cross_entropy_with_logits
    assert plain(rare_forgotten, targets) < plain(even, targets)
    for strategy in ("weighted_loss", "logit_adjustment"):
        watched = balance(strategy, targets).validation_binary_cross_entropy
        assert watched(rare_forgotten, targets) > watched(even, targets)
    for strategy in ("none", "focal_loss", "resampling"):
        watched = balance(strategy, targets).validation_binary_cross_entropy
        assert watched(even, targets) == plain(even, targets)


def test_a_task_without_labels_has_no_imbalance() -> None:
    content = {**RECIPE.model_dump(exclude={"fusion"}), "imbalance": {"strategy": "resampling"}}
    with pytest.raises(ValueError, match=r"imbalance\.strategy is not for task 'embedding'"):
        Recipe.model_validate({**content, "task": "embedding"})


def test_of_several_labels_the_rarest_decides_how_often_an_item_is_drawn() -> None:
    torch.manual_seed(0)
    targets = torch.zeros(100, 3)
    targets[:80, 0], targets[70:80, 1] = 1, 1  # the last 20 items have no label
    drawn = balance("resampling", targets).epoch(
        torch.arange(100).repeat(50), targets.repeat(50, 1)
    )
    counts = torch.bincount(drawn, minlength=100).float()
    assert float(counts[70:80].mean() / counts[:70].mean()) == pytest.approx(8, rel=0.15)
    assert float(counts[80:].mean() / counts[:70].mean()) == pytest.approx(1, rel=0.15)


def long_tailed(prepared: Prepared, strategy: str) -> Prepared:
    """One label has four training items; the others keep theirs."""
    table = ImbalanceTable(strategy=strategy)  # type: ignore[arg-type]
    changed = replace(prepared, recipe=prepared.recipe.model_copy(update={"imbalance": table}))
    split = prepared.split(0)
    targets = np.asarray(prepared.dataset.targets)
    rare = np.flatnonzero(targets[split.train] == 3)[4:]
    changed.keep_split(0, Split(np.delete(split.train, rare), split.validation, split.held_out))
    return changed


@pytest.mark.parametrize("strategy", ["weighted_loss", "resampling", "logit_adjustment"])
def test_a_rare_label_is_thought_of_more(strategy: str, prepared: Prepared) -> None:
    """Its probability rises where it is right."""

    def probability(strategy: str) -> float:
        trained = train_fold(long_tailed(prepared, strategy), fold=0, seed=0)
        rare = np.asarray(prepared.dataset.targets)[list(trained.held_out)] == 3
        return float(trained.probabilities["text,image"][rare, 3].mean())

    assert probability(strategy) > probability("none") + 0.02


def test_labels_of_the_other_sides_are_not_counted(prepared: Prepared) -> None:
    """Held-out labels that are all wrong change not one weight."""
    own = long_tailed(prepared, "logit_adjustment")
    held_out = set(own.split(0).held_out.tolist())
    labels = prepared.dataset.labels
    items = tuple(
        replace(item, label=labels[0]) if index in held_out else item
        for index, item in enumerate(prepared.dataset.items)
    )
    wrong = replace(own, dataset=replace(own.dataset, items=items))
    wrong.keep_split(0, own.split(0))
    first, second = (train_fold(one, fold=0, seed=0) for one in (own, wrong))
    for key, answers in first.probabilities.items():
        np.testing.assert_array_equal(answers, second.probabilities[key])
