"""What an answer says, whether that is right, and whether two answers say the same.

The gates for reduced precision and for rollouts count in these terms, whatever the task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tritium_builders.bundle_schema import BundleManifest
from tritium_builders.numerics import cosine_similarity
from tritium_builders.release import Release
from tritium_builders.samples import Sample, Span
from tritium_client.contract import Task

CLOSE = 0.5
"""A score is right within so many of its units, which are its spread in training."""
ALIKE = 0.98
"""Vectors say the same from this cosine on."""


Values = npt.NDArray[Any]
Offsets = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Meaning:
    """What an app's answers are to be read with."""

    task: Task
    labels: tuple[str, ...]
    thresholds: tuple[float, ...] = ()
    units: tuple[float, ...] = ()

    @property
    def right(self) -> str:
        """What counts as right, in the words of a report."""
        return {
            "classification": "top-1 accuracy",
            "multilabel": "exact sets of labels",
            "tagging": "texts with exactly the right entities",
            "regression": f"scores within {CLOSE:g} of their spread",
            "embedding": "texts whose own picture is the closest",
        }[self.task]

    def says(self, values: Values, offsets: Offsets = ()) -> Verdict:
        """Read an answer.

        Args:
            values: FP32 [labels], [scores], [D], or of words [words, labels].
            offsets: Of words: where each begins and ends.

        Raises:
            ValueError: it is no answer of such an app: another size, or not finite.
        """
        if not np.isfinite(values).all():
            raise ValueError("values that are not finite")
        if self.task != "embedding" and values.shape[-1] != len(self.labels):
            raise ValueError(f"{values.shape[-1]} values in place of {len(self.labels)}")
        match self.task:
            case "classification":
                return Verdict(self, (self.labels[int(values.argmax())],))
            case "multilabel":
                pairs = zip(self.labels, values.tolist(), self.thresholds, strict=True)
                return Verdict(self, tuple(label for label, own, least in pairs if own >= least))
            case "tagging":
                tags = [self.labels[index] for index in values.argmax(-1)]
                return Verdict(self, tuple(spans_of(tags, offsets)))
            case _:
                return Verdict(self, values=values.astype(np.float64))


@dataclass(frozen=True)
class Verdict:
    """What one answer says."""

    meaning: Meaning
    found: tuple[str, ...] | tuple[Span, ...] = ()
    """Labels, or entities."""
    values: Values | None = None
    """Scores, or a vector."""

    @property
    def vector(self) -> Values:
        """Of an app that embeds."""
        assert self.values is not None  # noqa: S101 - it is what such an app answers
        return self.values

    def is_right(self, sample: Sample) -> bool:
        """Whether it is what somebody said of the sample."""
        if self.meaning.task == "classification":
            return self.found == (sample.label,)
        if self.values is None:
            return set(self.found) == set(sample.target or ())
        return self._close(np.asarray(sample.target, dtype=np.float64))

    def agrees(self, other: Verdict) -> bool:
        """Whether another answer to the same says the same."""
        if self.values is None or other.values is None:
            return set(self.found) == set(other.found)
        if self.values.shape != other.values.shape:
            return False
        if self.meaning.task == "embedding":
            return cosine_similarity(self.values, other.values) >= ALIKE
        return self._close(other.values)

    def _close(self, values: Values) -> bool:
        if self.values is None or self.values.shape != values.shape:
            return False
        units = np.array(self.meaning.units)
        return bool((np.abs(self.values - values) / units <= CLOSE).all())


def meaning_of(described: BundleManifest | Release) -> Meaning:
    """How the answers of a bundle, or of a release, are to be read."""
    return Meaning(
        described.task,
        tuple(described.labels),
        tuple(described.thresholds),
        tuple(described.units),
    )


def spans_of(tags: Sequence[str], offsets: Offsets) -> list[Span]:
    """Join BIO tags to entities, as the SDK joins them.

    An `I-` that continues nothing begins an entity of its own, as CoNLL's own scorer reads it.

    Args:
        tags: One for each word: `O`, `B-LABEL` or `I-LABEL`.
        offsets: Where each word begins and ends.

    Source: Ramshaw and Marcus 1995, "Text Chunking using Transformation-Based Learning".
    """
    spans: list[Span] = []
    before = ""
    for tag, (begin, end) in zip(tags, offsets, strict=True):
        prefix, _, label = tag.partition("-")
        label = label if prefix in {"B", "I"} else ""
        if label and prefix == "I" and label == before:
            spans[-1] = (spans[-1][0], end, label)
        elif label:
            spans.append((begin, end, label))
        before = label
    return spans


def own_is_closest(texts: Sequence[Values], images: Sequence[Values]) -> list[bool]:
    """For each text, whether its own picture is closer to it than every other one.

    Args:
        texts: Vectors, FP32 [D] each.
        images: Of the same items, in the same order.
    """
    similarity = np.stack(texts) @ np.stack(images).T
    return [bool(row.argmax() == index) for index, row in enumerate(similarity)]
