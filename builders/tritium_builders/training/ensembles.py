"""Ensembles: several heads are trained over the same features, and answer as one.

    average    members differ by their initial weights and batches only
    bagging    each member is trained on a bootstrap of the training side's groups
    boosting   each member is trained on what the sum of those before it gets wrong
    stacking   a logistic regression over the members, fitted to out-of-fold answers

What a member is stopped by, and what anything is chosen by, is the validation side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tritium_builders.errors import RecipeError, needs
from tritium_builders.models.ensembles import (
    GIVEN,
    Combine,
    Member,
    make_ensemble,
    stacking_inputs,
)
from tritium_builders.models.fusion import FusionHead
from tritium_builders.models.fusion.base import Given
from tritium_builders.training.folds import Prepared, fit_head, make_head
from tritium_builders.training.network import answers_of
from tritium_builders.training.objective import Objective, SingleLabel
from tritium_builders.training.recipe import EnsembleTable
from tritium_builders.training.splits import Indices, Split
from tritium_builders.training.stacking import fit_regression

LEAST_GAIN = 1e-3
"""Boosting stops when another head lowers the validation loss by no more than that."""


def train_ensemble(
    prepared: Prepared, objective: Objective, split: Split, table: EnsembleTable
) -> tuple[FusionHead, int]:
    """Train what `[ensemble]` says; the caller seeds torch.

    Args:
        prepared: What is trained on.
        objective: What is minimised.
        split: The three sides; the held-out one is not looked at.
        table: The recipe's.

    Returns:
        The ensemble in evaluation mode, and the most epochs that a member was trained for.

    Raises:
        RecipeError: when the training side cannot be split (stacking).
        MissingExtraError: when scikit-learn is not installed (stacking).
    """
    assert isinstance(objective, SingleLabel)  # noqa: S101 - recipes see to it
    training = _Training(prepared, objective, split, table)
    if table.kind == "boosting":
        return training.boost()
    if table.kind == "stacking":
        return training.stack()
    return training.average(bootstrap=table.kind == "bagging")


@dataclass(frozen=True)
class _Training:
    prepared: Prepared
    objective: SingleLabel
    split: Split
    table: EnsembleTable

    def average(self, *, bootstrap: bool) -> tuple[FusionHead, int]:
        """Train members apart; their probabilities are averaged.

        Source: Breiman 1996, "Bagging Predictors"; without a bootstrap Lakshminarayanan et al.
        2017, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles".
        """
        members, epochs = [], 0
        for number in range(self.table.members):
            own = self._bootstrap() if bootstrap else self.split
            head, best = self._member(number, own)
            members.append(head)
            epochs = max(epochs, best)
        return self._ensemble(members, "average"), epochs

    def boost(self) -> tuple[FusionHead, int]:
        """Train each member on the loss of its logits added to those of all before it.

        With cross-entropy as the loss and whole heads as base learners this is the forward
        stagewise additive model of Hastie et al. 2009, "The Elements of Statistical Learning",
        section 10.3, fitted by the loss itself as in GrowNet (Badirli et al. 2020) rather than by
        reweighted items (Freund and Schapire 1997) or by pseudo-residuals (Friedman 2001).
        """
        members: list[FusionHead] = []
        lowest, epochs = float("inf"), 0
        watched = torch.from_numpy(self.split.validation)
        for number in range(self.table.members):
            prepared = self._prepared_for(number)
            new = make_head(prepared, "fusion", self.objective.outputs)
            before = self._ensemble(members, "sum", self._rates(len(members))) if members else None
            stage = _Stage(before, new, self._rates(number + 1)[-1])
            best, _ = fit_head(prepared, stage, self.objective, self.split)
            answers = answers_of(stage, prepared.features.select(watched), GIVEN)
            first = next(iter(stage.stages(prepared.recipe.fusion.absent_loss)[0]))
            loss = float(
                self.objective.validation_loss(answers[first], self.objective.targets[watched])
            )
            if members and loss > lowest - LEAST_GAIN:
                break
            members.append(new)
            lowest, epochs = loss, max(epochs, best)
        return self._ensemble(members, "sum", self._rates(len(members))), epochs

    def stack(self) -> tuple[FusionHead, int]:
        """Train members on all of the training side, and the regression on out-of-fold answers.

        Source: Wolpert 1992, "Stacked Generalization"; probabilities as inputs as in Ting and
        Witten 1999, "Issues in Stacked Generalization".
        """
        members, epochs = [], 0
        trained, parts = torch.from_numpy(self.split.train), self._parts()
        unseen: dict[Given, list[Tensor]] = {}
        for number in range(self.table.members):
            head, best = self._member(number, self.split)
            members.append(head)
            epochs = max(epochs, best)
            for given, logits in self._out_of_fold(number, parts).items():
                unseen.setdefault(given, []).append(logits)
        ensemble = make_ensemble(
            [Member(head) for head in members], "stacking", self.objective.outputs
        )
        watched = torch.from_numpy(self.split.validation)
        features = self.prepared.features.select(watched)
        own = [answers_of(head, features, GIVEN) for head in members]
        targets = self.objective.targets
        for given, parts_of in unseen.items():
            coefficients, biases = fit_regression(
                stacking_inputs(torch.stack(parts_of, 1)),
                targets[trained],
                labels=self.objective.outputs,
                watched=(
                    stacking_inputs(torch.stack([one[given] for one in own], 1)),
                    targets[watched],
                ),
            )
            ensemble.set_regression(given, coefficients, biases)
        return ensemble, epochs

    def _member(self, number: int, split: Split) -> tuple[FusionHead, int]:
        prepared = self._prepared_for(number)
        head = make_head(prepared, "fusion", self.objective.outputs)
        return head, fit_head(prepared, head, self.objective, split)[0]

    def _prepared_for(self, number: int) -> Prepared:
        """The same data for the strategy of one member."""
        recipe = self.prepared.recipe
        strategy = self.table.strategy_of(number, recipe.fusion.strategy)
        changes: dict[str, object] = {"strategy": strategy}
        fusion = recipe.fusion
        if self.table.kind == "boosting" and fusion.modality_dropout and not fusion.absent_loss:
            # What a member adds is added to what those before it say of the same modalities, and
            # they do not know which of them the member drops.
            changes |= {"absent_loss": fusion.modality_dropout}
        if self.table.kind == "boosting":
            changes |= {"modality_dropout": 0.0}
        fusion = fusion.model_copy(update=changes)
        return replace(self.prepared, recipe=recipe.model_copy(update={"fusion": fusion}))

    def _bootstrap(self) -> Split:
        """Draw as many groups as there are, with replacement: near-duplicates stay together."""
        groups: dict[str, list[int]] = {}
        for index in self.split.train.tolist():
            groups.setdefault(self.prepared.dataset.groups[index], []).append(index)
        names = list(groups)
        drawn = torch.randint(len(names), (len(names),)).tolist()
        train = [index for number in drawn for index in groups[names[number]]]
        return replace(self.split, train=np.asarray(train, dtype=np.int64))

    def _parts(self) -> list[Indices]:
        """Split positions within the training side into stratified parts; groups stay whole."""
        with needs("train"):
            from sklearn.model_selection import StratifiedGroupKFold

        train = self.split.train
        targets = np.asarray(self.prepared.dataset.targets)[train]
        groups = np.asarray(self.prepared.dataset.groups)[train]
        seed = int(torch.randint(2**31, ()))
        splitter = StratifiedGroupKFold(self.table.folds, shuffle=True, random_state=seed)
        try:
            return [part for _, part in splitter.split(train, targets, groups)]
        except ValueError as error:
            raise RecipeError(
                f"ensemble.folds: the training side cannot be split ({error}); lower it"
            ) from error

    def _out_of_fold(self, number: int, parts: Sequence[Indices]) -> dict[Given, Tensor]:
        """Logits [training items, K] of members that never saw the item that they answer."""
        found: dict[Given, Tensor] = {}
        for part in parts:
            rest = np.delete(self.split.train, part)
            head, _ = self._member(number, replace(self.split, train=rest))
            own = torch.from_numpy(self.split.train[part])
            answers = answers_of(head, self.prepared.features.select(own), GIVEN)
            for given, logits in answers.items():
                whole = found.setdefault(
                    given, logits.new_zeros(len(self.split.train), logits.shape[1])
                )
                whole[torch.from_numpy(part)] = logits
        return found

    def _rates(self, members: int) -> list[float]:
        return [1.0, *[self.table.rate] * (members - 1)]

    def _ensemble(
        self, heads: Sequence[FusionHead], combine: Combine, weights: Sequence[float] = ()
    ) -> FusionHead:
        ensemble = make_ensemble([Member(head) for head in heads], combine, self.objective.outputs)
        if weights:
            for given in GIVEN:
                ensemble.set_weights(given, weights)
        return ensemble


class _Stage(FusionHead):
    """One step of boosting: what was there, which no longer learns, and what is added."""

    kind = "boosting_stage"

    def __init__(self, before: FusionHead | None, new: FusionHead, rate: float) -> None:
        super().__init__(modality_dropout=0.0)
        self.new, self.rate = new, rate
        self.before = None if before is None else before.requires_grad_(False)

    def train(self, mode: bool = True) -> _Stage:
        """Put only the new head into training mode: dropout is over for the others."""
        super().train(mode)
        if self.before is not None:
            self.before.eval()
        return self

    def forward(self, *features: Tensor | None) -> Tensor:
        logits: Tensor = self.new(*features)
        if self.before is None:
            return logits
        with torch.no_grad():
            before: Tensor = self.before(*features)
        return before + self.rate * logits

    def stages(self, absent_loss: float) -> tuple[Mapping[Given, float], ...]:
        return self.new.stages(absent_loss)
