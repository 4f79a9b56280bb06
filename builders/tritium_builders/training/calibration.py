"""Temperatures that make a trained head's probabilities mean what they say."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from tritium_builders.errors import needs
from tritium_builders.models import FusionHead, TemperatureScaled
from tritium_builders.models.fusion.base import Given
from tritium_builders.training.objective import Objective

BOUNDS = (0.05, 20.0)
"""Nobody's temperature; without bounds, answers that are all right would ask for 0."""


def with_temperatures(
    head: FusionHead, answers: Mapping[Given, Tensor], targets: Tensor, objective: Objective
) -> TemperatureScaled:
    """Put a temperature on a head for each set of modalities that it answered with.

    Args:
        head: The head, trained.
        answers: Logits FP32 [N, K] on the validation side, by the modalities that were given.
        targets: The validation side's rows of `objective.targets`.
        objective: What answers are judged by.

    Raises:
        MissingExtraError: when SciPy, which scikit-learn brings, is not installed.
    """
    temperatures = {
        given: fit_temperature(logits, targets, objective) for given, logits in answers.items()
    }
    return TemperatureScaled(head, temperatures).eval()


def fit_temperature(logits: Tensor, targets: Tensor, objective: Objective) -> float:
    """Find the temperature with which right answers are as probable as they can get.

    Args:
        logits: FP32 [N, K].
        targets: Their rows of `objective.targets`.
        objective: Its `calibration_loss` is minimised.
    """
    with needs("train"):
        from scipy.optimize import minimize_scalar

    logits = logits.double()

    def loss(logarithm: float) -> float:
        return float(objective.calibration_loss(logits / math.exp(logarithm), targets))

    found = minimize_scalar(loss, bounds=tuple(map(math.log, BOUNDS)), method="bounded")
    return math.exp(float(found.x))
