"""How much each member counts: weights of an average, or a regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tritium_builders.data.progress import track
from tritium_builders.models.ensembles import EnsembleHead, stacking_inputs
from tritium_builders.models.fusion.base import Given
from tritium_builders.reference import FusionModel
from tritium_builders.samples import Sample

ROUNDS = 1000
"""Of expectation maximisation; it stops sooner when no weight moves by a millionth."""


@torch.inference_mode()
def member_logits(
    model: FusionModel, samples: Sequence[Sample], entry_points: Sequence[Given], what: str
) -> dict[Given, Tensor]:
    """What every member says of every sample.

    Args:
        model: Its head is an ensemble.
        samples: What to answer.
        entry_points: The sets of modalities to answer with.
        what: The progress bar's words.

    Returns:
        For each set of modalities FP32 [N, M, K]; nothing where there are no samples.

    Raises:
        ValueError: when a text or a picture cannot be read.
    """
    head = model.fusion_head
    assert isinstance(head, EnsembleHead)  # noqa: S101
    found: dict[Given, list[Tensor]] = {given: [] for given in entry_points}
    for sample in track(samples, what, total=len(samples)):
        answer = model.answer(sample.text, sample.image, [])
        text = torch.from_numpy(answer.text_features)[None]
        image = torch.from_numpy(answer.image_features)[None]
        mask = torch.ones(text.shape[:2], dtype=torch.int64)  # of pooled features nobody asks it
        for given, rows in found.items():
            rows.append(
                head.member_logits(
                    text if "text" in given else None,
                    image if "image" in given else None,
                    mask if "text" in given else None,
                )
            )
    return {given: torch.cat(rows) for given, rows in found.items() if rows}


def tuned_weights(logits: Tensor, targets: Tensor) -> list[float]:
    """The weights of an average of probabilities with the lowest cross-entropy.

    Expectation maximisation for the weights of a mixture of known distributions (Dempster et al.
    1977); the loss is convex in them, so that there is one answer.

    Args:
        logits: FP32 [N, M, K].
        targets: INT64 [N].

    Returns:
        One weight for each member; their sum is 1.
    """
    index = targets.view(-1, 1, 1).expand(-1, logits.shape[1], 1)
    right = logits.double().softmax(-1).gather(-1, index).squeeze(-1).clamp(min=1e-12)
    weights = torch.full((logits.shape[1],), 1 / logits.shape[1], dtype=torch.float64)
    for _ in range(ROUNDS):
        parts = weights * right
        new = (parts / parts.sum(1, keepdim=True)).mean(0)
        moved = float((new - weights).abs().max())
        weights = new
        if moved < 1e-6:
            break
    return [round(float(weight), 4) for weight in weights / weights.sum()]


def fit_stacking(head: EnsembleHead, logits: Mapping[Given, Tensor], targets: Tensor) -> None:
    """Fit the regression for each set of modalities to answers that no member was trained for.

    Args:
        head: Receives them.
        logits: For each set of modalities FP32 [N, M, K].
        targets: INT64 [N].

    Raises:
        MissingExtraError: when scikit-learn is not installed.
    """
    from tritium_builders.training.stacking import fit_regression

    for given, own in logits.items():
        head.set_regression(
            given, *fit_regression(stacking_inputs(own), targets, labels=head.labels)
        )
