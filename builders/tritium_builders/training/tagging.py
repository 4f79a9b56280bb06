"""Token classification: entities in a text, with the help of its picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from tritium_builders.data import Dataset
from tritium_builders.data.targets import tags_of
from tritium_builders.errors import needs
from tritium_builders.models.fusion.base import BOTH, TEXT
from tritium_builders.training.objective import Objective

if TYPE_CHECKING:
    from tritium_builders.samples import Span
    from tritium_builders.training.features import Features
    from tritium_builders.training.recipe import Recipe

Values = npt.NDArray[np.float32]
NO_WORD = -100
"""The target of padding; `cross_entropy` leaves it out."""


class Tagging(Objective):
    """Cross-entropy of each word's BIO tag; its score is entity-level F1, 0 to 1.

    An entity counts when its words and its label are all right.

    Args:
        recipe: The recipe.
        dataset: Items whose targets are entities.
        features: Say where the words of each text are.

    Source: Tjong Kim Sang and De Meulder 2003, "Introduction to the CoNLL-2003 Shared Task";
    computed by seqeval.
    """

    measure = "entity F1"
    given = (BOTH, TEXT)
    kinds = ("fusion", "text")

    def __init__(self, recipe: Recipe, dataset: Dataset, features: Features) -> None:
        self.outputs = len(dataset.labels)
        self._tags = dataset.labels
        self._smoothing = recipe.optimiser.label_smoothing
        places = {tag: index for index, tag in enumerate(self._tags)}
        assert features.offsets is not None  # noqa: S101 - texts that are tagged have them
        assert features.text_mask is not None  # noqa: S101
        words = features.text_mask.sum(1).tolist()
        self.targets = torch.full(tuple(features.text_mask.shape), NO_WORD)
        for row, (item, count) in enumerate(zip(dataset.items, words, strict=True)):
            offsets = [(begin, end) for begin, end in features.offsets[row, :count].tolist()]
            spans: list[Span] = [one for one in item.target or () if isinstance(one, tuple)]
            tags = [places[tag] for tag in tags_of(offsets, spans)]
            self.targets[row, :count] = torch.tensor(tags)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy over all words, with label smoothing.

        Args:
            logits: FP32 [B, W, K].
            targets: INT64 [B, W].
        """
        return functional.cross_entropy(
            logits.flatten(0, 1),
            targets.flatten(),
            ignore_index=NO_WORD,
            label_smoothing=self._smoothing,
        )

    def validation_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy over all words."""
        return functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=NO_WORD
        )

    def answers(self, logits: Tensor) -> Tensor:
        """Probabilities of every word's tags."""
        return logits.softmax(-1)

    def score(self, logits: Tensor, targets: Tensor) -> float:
        """Entity-level F1."""
        return self._entity_f1(logits.numpy(), targets.numpy())

    def figures(
        self, answers: Mapping[str, Values], targets: Values, thresholds: tuple[float, ...] = ()
    ) -> dict[str, float]:
        """Figures of the held-out items, with all modalities.

        Args:
            answers: FP32 [N, W, K] by `modalities_key`.
            targets: INT64 [N, W].
            thresholds: Has no effect.

        Raises:
            MissingExtraError: when seqeval is not installed.
        """
        del thresholds
        with needs("train"):
            from seqeval.metrics import precision_score, recall_score

        found, right = self._sequences(answers["text,image"], targets)
        here = targets != NO_WORD
        best = answers["text,image"].argmax(-1)
        return {
            "entity F1": self._entity_f1(answers["text,image"], targets),
            "entity precision": float(precision_score(right, found, zero_division=0)),
            "entity recall": float(recall_score(right, found, zero_division=0)),
            "words": float((best == targets)[here].mean()),
        }

    def _entity_f1(self, values: Values, targets: Values) -> float:
        with needs("train"):
            from seqeval.metrics import f1_score

        found, right = self._sequences(values, targets)
        return float(f1_score(right, found, zero_division=0))

    def _sequences(
        self, values: Values, targets: Values
    ) -> tuple[list[list[str]], list[list[str]]]:
        """What was answered and what is right, a list of tags for each text."""
        best = values.argmax(-1)
        found, right = [], []
        for row, own in zip(best, targets, strict=True):
            here = own != NO_WORD
            found.append([self._tags[index] for index in row[here]])
            right.append([self._tags[int(index)] for index in own[here]])
        return found, right
