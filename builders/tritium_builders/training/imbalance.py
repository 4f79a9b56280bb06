"""Rare labels: weights, a sampler and losses that keep frequent labels from drowning them.

All of it is training's; a served head answers with its own logits and nothing added. Weighted
loss, resampling and logit adjustment aim at answers as if all labels were equally frequent, so
probabilities of rare labels come out higher than these labels occur.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tritium_builders.training.recipe.imbalance import ImbalanceTable


@dataclass(frozen=True)
class Balance:
    """What `[imbalance]` makes of the losses and of the order of items.

    Args:
        table: The recipe's table.
        counts: FP32 [K], training items of each label.
        items: Training items, N; more than `counts.sum()` is fewer where items have several labels.
    """

    table: ImbalanceTable
    counts: Tensor
    items: int

    @classmethod
    def of(cls, table: ImbalanceTable, targets: Tensor, labels: int) -> Balance:
        """Count the labels of the training side, and of no other.

        Args:
            table: The recipe's table.
            targets: INT64 [N], one label an item; or [N, K], 1 for each label that is right.
            labels: K.
        """
        if targets.ndim == 1:
            targets = functional.one_hot(targets, labels)
        return cls(table, targets.sum(0).float(), len(targets))

    @property
    def weights(self) -> Tensor | None:
        """FP32 [K], what an item of each label counts; None where all count the same.

        A training item counts 1 on average, so that learning rates mean what they did.
        """
        table = self.table
        if table.strategy == "none" or (table.strategy == "focal_loss" and not table.weights):
            return None
        raw = self._rarity(self.counts)
        return raw * (self.counts.sum() / (raw * self.counts).sum())

    def cross_entropy(self, logits: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """What training minimises where one label is right, FP32 [].

        Args:
            logits: FP32 [B, K].
            targets: INT64 [B].
            smoothing: Label smoothing, 0 to 1.
        """
        table, weights = self.table, self.weights
        if table.strategy == "logit_adjustment":
            prior = self.counts.clamp(min=1) / self.counts.clamp(min=1).sum()
            logits = logits + table.tau * prior.log()
        if table.strategy not in {"weighted_loss", "focal_loss"}:
            return functional.cross_entropy(logits, targets, label_smoothing=smoothing)
        gamma = table.gamma if table.strategy == "focal_loss" else 0.0
        losses = focal_cross_entropy(logits, targets, gamma=gamma, smoothing=smoothing)
        return (losses if weights is None else losses * weights[targets]).mean()

    def binary_cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What training minimises where several labels may be right, FP32 [].

        Each label is a question of its own: what counts is how much rarer yes is than no.

        Args:
            logits: FP32 [B, K].
            targets: FP32 [B, K], 1 for a label that is right, or smoothed towards one half.
        """
        table, no = self.table, self.items - self.counts
        if table.strategy == "logit_adjustment":
            odds = self.counts.clamp(min=1) / no.clamp(min=1)
            logits = logits + table.tau * odds.log()
        losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        if table.strategy == "focal_loss":
            right = torch.where(targets > 0.5, logits.sigmoid(), (-logits).sigmoid())
            losses = losses * (1 - right) ** table.gamma
        if self.weights is not None and table.strategy in {"weighted_loss", "focal_loss"}:
            losses = losses * self._yes_and_no(targets)
        return losses.mean()

    def validation_binary_cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What early stopping watches where several labels may be right, FP32 [].

        Yes and no count as they do in training.

        Args:
            logits: FP32 [N, K].
            targets: FP32 [N, K].
        """
        if self.weights is None or self.table.strategy == "resampling":
            return functional.binary_cross_entropy_with_logits(logits, targets)
        losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (losses * self._yes_and_no(targets)).mean()

    def validation_cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What early stopping watches where one label is right, FP32 [].

        Cross-entropy in which labels count as they do in training: by frequency alone, training
        that evens labels out would be stopped for doing so.

        Args:
            logits: FP32 [N, K].
            targets: INT64 [N].
        """
        if self.weights is None:
            return functional.cross_entropy(logits, targets)
        losses = functional.cross_entropy(logits, targets, reduction="none")
        return (losses * self.weights[targets]).mean()

    def epoch(self, train: Tensor, targets: Tensor) -> Tensor:
        """The items of an epoch in their order, INT64 [N].

        Every item once; when resampling as many draws, in which all labels are equally likely (or
        likely by their weights), so that a rare label's items come several times.

        Args:
            train: INT64 [N], indices of the training side.
            targets: Their rows, INT64 [N] or [N, K]; of several labels the rarest decides.
        """
        if self.table.strategy != "resampling" or self.weights is None:
            return train[torch.randperm(len(train))]
        if targets.ndim == 1:
            chances = self.weights[targets]
        else:
            rare = torch.where(targets > 0.5, self.weights, torch.zeros(()))
            chances = rare.amax(-1).clamp(min=float(self.weights.min()))
        return train[torch.multinomial(chances, len(train), replacement=True)]

    def _yes_and_no(self, targets: Tensor) -> Tensor:
        """FP32 [B, K], what each answer counts: yes by how much rarer it is than no."""
        yes = self._rarity(self.counts) / self._rarity(self.items - self.counts)
        return torch.where(targets > 0.5, yes, torch.ones_like(yes))

    def _rarity(self, counts: Tensor) -> Tensor:
        """FP32 [K], larger for labels with fewer items.

        Source: Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples",
        equation 2, for `effective`.
        """
        counts = counts.double().clamp(min=1)  # a label without items counts as if it had one
        if self.table.weights == "effective":
            beta = torch.tensor(self.table.beta, dtype=torch.float64)
            return ((1 - beta) / (1 - beta**counts)).float()
        return (1 / counts).float()


def focal_cross_entropy(
    logits: Tensor, targets: Tensor, *, gamma: float, smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy in which what is already answered well counts little, FP32 [B].

    Args:
        logits: FP32 [B, K].
        targets: INT64 [B].
        gamma: How little; 0 is cross-entropy.
        smoothing: Label smoothing, 0 to 1.

    Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 4, for softmax.
    """
    logs = logits.log_softmax(-1)
    wanted = functional.one_hot(targets, logits.shape[-1]).to(logs.dtype)
    wanted = (1 - smoothing) * wanted + smoothing / logits.shape[-1]
    return -(wanted * (1 - logs.exp()) ** gamma * logs).sum(-1)
