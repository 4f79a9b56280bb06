"""Several heads that answer as one, and several encoders that read as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from typing_extensions import Self

from tritium_builders.models.fusion import FusionHead
from tritium_builders.models.fusion.base import BOTH, IMAGE, TEXT, Given
from tritium_builders.models.image_encoders import EfficientNetLite, HuggingFaceImageEncoder
from tritium_builders.models.known import KnownModule
from tritium_builders.models.text_encoders import HuggingFaceTextEncoder

Combine = Literal["average", "sum", "stacking"]
"""How members' answers become one: `average` of probabilities, `sum` of logits, or a `stacking`
regression over the logarithms of probabilities."""
COMBINATIONS: tuple[Combine, ...] = get_args(Combine)
GIVEN: tuple[Given, ...] = (BOTH, TEXT, IMAGE)
"""The sets of modalities, in the order in which an ensemble keeps its weights for them."""
Span = tuple[int, int]
"""From the first feature to the one behind the last."""
SMALLEST = 1e-12
"""A probability of 0 has no logarithm."""


@dataclass(frozen=True)
class Member:
    """One head of an ensemble, and what of the ensemble's inputs and outputs is its own."""

    head: FusionHead
    text: Span | None = None
    """Which of the text's features it reads; None: all of them."""
    image: Span | None = None
    """Which of the picture's features it reads; None: all of them."""
    labels: tuple[int, ...] | None = None
    """For each label of the ensemble the member's own index of it; None: the same order."""

    def describe(self) -> dict[str, Any]:
        """Everything but the weights, as JSON values."""
        return {
            "kind": self.head.kind,
            "config": self.head.config(),
            "text": None if self.text is None else list(self.text),
            "image": None if self.image is None else list(self.image),
            "labels": None if self.labels is None else list(self.labels),
        }

    @classmethod
    def from_description(cls, described: dict[str, Any]) -> Member:
        """Make a member with weights that are still to be loaded."""
        text, image, labels = (described[name] for name in ("text", "image", "labels"))
        return cls(
            head=_head_class(described["kind"]).from_config(described["config"]),
            text=None if text is None else (text[0], text[1]),
            image=None if image is None else (image[0], image[1]),
            labels=None if labels is None else tuple(labels),
        )


class _Combiner(nn.Module):
    """Members' logits FP32 [B, M, K] -> the ensemble's, FP32 [B, K]."""

    def forward(self, logits: Tensor, row: int) -> Tensor:
        raise NotImplementedError


class _Weighted(_Combiner):
    """One weight for each member, in a row of its own for each set of modalities."""

    weights: Tensor

    def __init__(self, members: int, start: float) -> None:
        super().__init__()
        self.register_buffer("weights", torch.full((len(GIVEN), members), start))


class _Average(_Weighted):
    """The linear opinion pool of Genest and Zidek 1986: a weighted mean of probabilities."""

    def forward(self, logits: Tensor, row: int) -> Tensor:
        mean = (self.weights[row].unsqueeze(-1) * logits.softmax(-1)).sum(1)
        return mean.clamp(min=SMALLEST).log()


class _Sum(_Weighted):
    """An additive model: what boosting makes."""

    def forward(self, logits: Tensor, row: int) -> Tensor:
        return (self.weights[row].unsqueeze(-1) * logits).sum(1)


class _Stacking(_Combiner):
    """A multinomial logistic regression for each set of modalities."""

    coefficients: Tensor
    biases: Tensor

    def __init__(self, members: int, labels: int) -> None:
        super().__init__()
        # Until it is fitted: the members' geometric mean.
        start = torch.eye(labels).repeat(1, members) / members
        self.register_buffer("coefficients", start.repeat(len(GIVEN), 1, 1))
        self.register_buffer("biases", torch.zeros(len(GIVEN), labels))

    def forward(self, logits: Tensor, row: int) -> Tensor:
        levels = stacking_inputs(logits)
        return levels @ self.coefficients[row].T + self.biases[row]


def stacking_inputs(logits: Tensor) -> Tensor:
    """What a stacking regression reads: logarithms of probabilities, FP32 [N, M * K].

    Args:
        logits: Of each member, FP32 [N, M, K].
    """
    return logits.log_softmax(-1).clamp(min=-10.0).flatten(1)


class EnsembleHead(FusionHead):
    """Heads over the same features, and a rule that makes one answer of theirs.

    Args:
        members: The heads; at least one.
        combine: The rule.
        labels: Number of labels, K.

    Raises:
        ValueError: when there is no member or no such rule.

    Source: Wolpert 1992, "Stacked Generalization"; Breiman 1996, "Bagging Predictors"; Friedman
    2001, "Greedy Function Approximation: A Gradient Boosting Machine" (`sum`).
    """

    kind: ClassVar[str] = "ensemble"
    settings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, members: Sequence[Member], combine: Combine, labels: int) -> None:
        super().__init__(modality_dropout=0.0)
        if not members or combine not in COMBINATIONS:
            raise ValueError(f"an ensemble has members and one of {', '.join(COMBINATIONS)}")
        self.members = nn.ModuleList(member.head for member in members)
        self._described = [member.describe() for member in members]
        self._spans = [(member.text, member.image) for member in members]
        self._orders = [member.labels for member in members]
        self.combine: Combine = combine
        self.labels = labels
        self.combiner = self._make_combiner(len(members))

    def _make_combiner(self, members: int) -> _Combiner:
        if self.combine == "stacking":
            return _Stacking(members, self.labels)
        return _Average(members, 1 / members) if self.combine == "average" else _Sum(members, 1.0)

    def config(self) -> dict[str, Any]:
        """The members' kinds and configs, and the rule."""
        return {"combine": self.combine, "labels": self.labels, "members": self._described}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make the ensemble with weights that are still to be loaded."""
        members = [Member.from_description(member) for member in config["members"]]
        return cls(members, config["combine"], config["labels"]).eval()

    def set_weights(self, given: Given, weights: Sequence[float]) -> None:
        """Set how much each member counts with these modalities (`average` and `sum`).

        Args:
            given: The modalities that are there.
            weights: One for each member; of an average, their sum is 1.
        """
        assert isinstance(self.combiner, _Weighted)  # noqa: S101 - a caller's slip, no user's
        self.combiner.weights[GIVEN.index(given)] = torch.tensor(weights)

    def set_regression(self, given: Given, coefficients: Tensor, biases: Tensor) -> None:
        """Set the regression that answers with these modalities (`stacking`).

        Args:
            given: The modalities that are there.
            coefficients: FP32 [K, M * K].
            biases: FP32 [K].
        """
        assert isinstance(self.combiner, _Stacking)  # noqa: S101 - a caller's slip, no user's
        row = GIVEN.index(given)
        self.combiner.coefficients[row] = coefficients
        self.combiner.biases[row] = biases

    def member_logits(
        self, text: Tensor | None, image: Tensor | None, text_mask: Tensor | None = None
    ) -> Tensor:
        """What each member says, FP32 [B, M, K], labels in the ensemble's order.

        Args:
            text: As `forward`.
            image: As `forward`.
            text_mask: As `forward`.
        """
        mask = [text_mask] if text is not None and text.ndim == 3 else []
        found = []
        for head, spans, order in zip(self.members, self._spans, self._orders, strict=True):
            own: Tensor = head(_part(text, spans[0]), _part(image, spans[1]), *mask)
            found.append(own if order is None else own[:, list(order)])
        return torch.stack(found, 1)

    def forward(
        self, text: Tensor | None, image: Tensor | None, text_mask: Tensor | None = None
    ) -> Tensor:
        """Classify.

        Args:
            text: FP32 [B, text features], or [B, L, text features], or None when absent.
            image: FP32 [B, image features], or [B, P, image features], or None when absent.
            text_mask: INT64 [B, L] beside a sequence of tokens, 1 for a token.

        Returns:
            Logits, FP32 [B, K].

        Raises:
            ValueError: when both are absent.
        """
        given = BOTH if text is not None is not image else TEXT if image is None else IMAGE
        members = self.member_logits(text, image, text_mask)
        logits: Tensor = self.combiner(members, GIVEN.index(given))
        return logits


def make_ensemble(members: Sequence[Member], combine: Combine, labels: int) -> EnsembleHead:
    """Make an ensemble in evaluation mode; arguments as the class's."""
    return EnsembleHead(members, combine, labels).eval()


class ConcatenatedEncoder(KnownModule):
    """Encoders of one modality over the same input; their features lie side by side.

    Args:
        encoders: At least one; all pooled, or all sequences of equal length.
    """

    kind: ClassVar[str] = "concatenated_encoder"

    def __init__(self, encoders: Sequence[KnownModule]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Encode a batch.

        Args:
            *inputs: What each of the encoders takes: ids and mask, or pixels.

        Returns:
            FP32 [B, D] or [B, L, D], where D is the sum of the encoders' own.
        """
        return torch.cat([encoder(*inputs) for encoder in self.encoders], dim=-1)

    def config(self) -> dict[str, Any]:
        """The encoders' kinds and configs."""
        encoders = [encoder for encoder in self.encoders if isinstance(encoder, KnownModule)]
        return {"encoders": [{"kind": one.kind, "config": one.config()} for one in encoders]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make the encoders with weights that are still to be loaded."""
        made = [_ENCODERS[one["kind"]].from_config(one["config"]) for one in config["encoders"]]
        return cls(made).eval()


_ENCODERS: dict[str, type[KnownModule]] = {
    encoder.kind: encoder
    for encoder in (
        HuggingFaceTextEncoder, HuggingFaceImageEncoder, EfficientNetLite, ConcatenatedEncoder
    )
}  # fmt: skip


def _head_class(kind: str) -> type[FusionHead]:
    from tritium_builders.models import KNOWN_MODULES

    found = KNOWN_MODULES[kind]
    if not issubclass(found, FusionHead):
        raise TypeError(f"{kind!r} is no fusion head")
    return found


def _part(features: Tensor | None, span: Span | None) -> Tensor | None:
    return features if features is None or span is None else features[..., span[0] : span[1]]
