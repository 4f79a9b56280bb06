"""Embeddings: texts and pictures that belong together lie close to each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from tritium_builders.data import Dataset
from tritium_builders.models.fusion.base import BOTH, IMAGE, TEXT
from tritium_builders.training.objective import Objective

if TYPE_CHECKING:
    from tritium_builders.training.recipe import Recipe

Values = npt.NDArray[np.float32]
MOST_SCALE = 100.0
"""Similarities are multiplied with no more than this in training, as in CLIP."""
AT = (1, 5, 10)
"""Recall is told at these."""


class Embedding(Objective):
    """Symmetric InfoNCE over each batch; its score is recall@1, mean of both ways, 0 to 1.

    Args:
        recipe: The recipe.
        dataset: Items whose text and picture belong together.

    Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
    Supervision" (CLIP), figure 3; van den Oord et al. 2018, "Representation Learning with
    Contrastive Predictive Coding" (InfoNCE).
    """

    measure = "recall@1"
    given = (BOTH, TEXT, IMAGE)
    kinds = ("fusion",)

    def __init__(self, recipe: Recipe, dataset: Dataset) -> None:
        self.outputs = recipe.fusion.width
        # Items with one text or one picture are no counterexamples to each other.
        groups = {group: index for index, group in enumerate(dict.fromkeys(dataset.groups))}
        self.targets = torch.tensor([groups[group] for group in dataset.groups])

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """InfoNCE from texts to pictures and back.

        Args:
            logits: FP32 [B, 2 D + 1]: texts' vectors, pictures' vectors, and log_scale.
            targets: INT64 [B], the items' groups: near-duplicates do not count against each other.
        """
        text, image = self._vectors(logits)
        scale = logits[0, -1].exp().clamp(max=MOST_SCALE)
        similar = scale * text @ image.T
        itself = torch.eye(len(targets), dtype=torch.bool, device=targets.device)
        twins = (targets[:, None] == targets[None, :]) & ~itself
        similar = similar.masked_fill(twins, float("-inf"))
        own = torch.arange(len(targets), device=targets.device)
        return (
            functional.cross_entropy(similar, own) + functional.cross_entropy(similar.T, own)
        ) / 2

    def validation_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The same over the whole validation side."""
        return self.loss(logits, targets)

    def answers(self, logits: Tensor) -> Tensor:
        """Vectors of length 1; of both modalities, side by side."""
        if logits.shape[-1] == self.outputs:
            return functional.normalize(logits, dim=-1)
        return torch.cat(self._vectors(logits), dim=-1)

    def score(self, logits: Tensor, targets: Tensor) -> float:
        """Recall@1, mean of both ways."""
        del targets
        text, image = (part.numpy() for part in self._vectors(logits))
        return (recall(text, image, 1) + recall(image, text, 1)) / 2

    def figures(
        self, answers: Mapping[str, Values], targets: Values, thresholds: tuple[float, ...] = ()
    ) -> dict[str, float]:
        """Recall among the held-out items, both ways.

        Args:
            answers: FP32 [N, D] by `modalities_key`.
            targets: Has no effect, as `thresholds`.
            thresholds: None.
        """
        del targets, thresholds
        text, image = answers["text"], answers["image"]
        found = {"recall@1": (recall(text, image, 1) + recall(image, text, 1)) / 2}
        for most in AT:
            found[f"text to picture, recall@{most}"] = recall(text, image, most)
            found[f"picture to text, recall@{most}"] = recall(image, text, most)
        return found

    def _vectors(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        size = (logits.shape[-1] - 1) // 2 if logits.shape[-1] % 2 else logits.shape[-1] // 2
        text, image = logits[:, :size], logits[:, size : 2 * size]
        return functional.normalize(text, dim=-1), functional.normalize(image, dim=-1)


def recall(asked: Values, found: Values, most: int) -> float:
    """Share of the items whose own counterpart is among the closest `most`, 0 to 1.

    Args:
        asked: Vectors, FP32 [N, D], of length 1.
        found: Of the same items, in the same order, FP32 [N, D].
        most: How many of the closest count.
    """
    similar = asked @ found.T
    own = similar.diagonal()[:, None]
    # Its own never wins a tie: an encoder that says the same of everything finds nothing.
    as_close = (similar >= own).sum(1) - 1
    return float((as_close < most).mean())
