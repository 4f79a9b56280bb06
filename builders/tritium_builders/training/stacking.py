"""The second level of a stacked ensemble: a multinomial logistic regression."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tritium_builders.errors import needs

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""scikit-learn's C for a thousand items: the smaller, the nearer to zero coefficients are kept."""
PARTS = 5
"""Of the cross-validation that chooses the strength where nothing else can."""

Regression = tuple[Tensor, Tensor]
"""Coefficients FP32 [K, F] and biases FP32 [K]."""


def fit_regression(
    inputs: Tensor,
    targets: Tensor,
    *,
    labels: int,
    watched: tuple[Tensor, Tensor] | None = None,
) -> Regression:
    """Fit a regression, as strongly as other items say.

    Args:
        inputs: FP32 [N, F].
        targets: INT64 [N], at least two labels among them.
        labels: How many there are, K; one that does not occur is never answered.
        watched: Inputs and targets of other items: the strength with the lowest loss on them is
            taken. None: cross-validation decides.

    Raises:
        MissingExtraError: when scikit-learn is not installed.
    """

    def loss_of(strength: float) -> float:
        if watched is None:
            return _cross_validated_loss(inputs, targets, labels, strength)
        return _loss(_fit(inputs, targets, labels, strength), *watched)

    # Equal but for rounding is equal: of such the first one, the strongest, is taken.
    strength = min(STRENGTHS, key=lambda one: round(loss_of(one), 9))
    return _fit(inputs, targets, labels, strength)


def _cross_validated_loss(inputs: Tensor, targets: Tensor, labels: int, strength: float) -> float:
    losses = []
    for part in range(PARTS):
        # Items of one label come in turn, so that all parts have some of each label.
        rank = torch.zeros_like(targets)
        for label in set(targets.tolist()):
            own = targets == label
            rank[own] = torch.arange(int(own.sum()))
        out = rank % PARTS == part
        if out.any() and len(set(targets[~out].tolist())) > 1:
            fitted = _fit(inputs[~out], targets[~out], labels, strength)
            losses.append(_loss(fitted, inputs[out], targets[out]) * int(out.sum()))
    return sum(losses) / len(targets)


def _fit(inputs: Tensor, targets: Tensor, labels: int, strength: float) -> Regression:
    with needs("train"):
        from sklearn.linear_model import LogisticRegression

    # scikit-learn adds up the losses of all items, so that their number would change the strength.
    model = LogisticRegression(C=strength * 1000 / len(targets), max_iter=2000)
    model.fit(inputs.double().numpy(), targets.numpy())
    return _expand(model.coef_, model.intercept_, model.classes_, labels)


def _expand(coefficients: Any, intercepts: Any, classes: Any, labels: int) -> Regression:
    """One row for each label; scikit-learn has one for two labels, and none for absent ones."""
    if len(classes) == 2:
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    rows = np.zeros((labels, coefficients.shape[1]))
    biases = np.full(labels, -20.0)
    rows[classes], biases[classes] = coefficients, intercepts
    return torch.from_numpy(rows).float(), torch.from_numpy(biases).float()


def _loss(fitted: Regression, inputs: Tensor, targets: Tensor) -> float:
    coefficients, biases = fitted
    return float(nn.functional.cross_entropy(inputs @ coefficients.T + biases, targets))
