"""Which of an app's outputs an explanation is about.

Classification, multi-label and regression have one for each label; an app that tags has one for
each label at each word, of which one word is explained; of an app that embeds it is how similar
the text and the picture are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tritium_builders.bundle_schema import BundleManifest
from tritium_builders.errors import ExplainError
from tritium_builders.explain.answering import Answering
from tritium_builders.explain.item import ExplainedItem

SIMILARITY = "similarity"
"""The one output of an app that embeds: the cosine of both vectors, -1 to 1."""
OUTSIDE = "O"
"""The tag of words that belong to no entity (BIO)."""


def choose_word(
    manifest: BundleManifest, ask: Callable[[ExplainedItem], Answering], item: ExplainedItem,
    word: str | None,
) -> ExplainedItem:  # fmt: skip
    """Settle which word's tag is explained.

    Args:
        manifest: The bundle's.
        ask: Makes what answers for an item's words.
        item: The item.
        word: As the text has it, in any case; None: the word that is surest to be in an entity.

    Raises:
        ExplainError: the app tags no words, or the text has no such word.
    """
    if item.tagged is None:
        if word is not None:
            raise ExplainError(f"{manifest.app} is an app for {manifest.task} and tags no words")
        return item
    words = item.tagged.words
    if word is not None:
        places = [place for place, own in enumerate(words) if own.casefold() == word.casefold()]
        if not places:
            raise ExplainError(f"the text has no word {word!r}; it has {', '.join(words[:30])}")
        return _at(item, places[0])
    tags = ask(item)(item.ids, item.pixels)[0]
    if OUTSIDE in manifest.labels:
        return _at(item, int(tags[:, manifest.labels.index(OUTSIDE)].argmin()))
    return _at(item, int(tags.amax(-1).argmax()))


def _at(item: ExplainedItem, place: int) -> ExplainedItem:
    assert item.tagged is not None  # noqa: S101 - only such items have words
    return replace(item, tagged=replace(item.tagged, place=place))


def output_labels(manifest: BundleManifest) -> Sequence[str]:
    """What the outputs are called, in their order."""
    return (SIMILARITY,) if manifest.task == "embedding" else manifest.labels


def choose_output(manifest: BundleManifest, answers: Tensor, label: str | None) -> int:
    """The index of the output that is explained.

    Args:
        manifest: The bundle's.
        answers: FP32 [K].
        label: Whose; None for the highest, of a regression the first.

    Raises:
        ExplainError: there is no such label.
    """
    labels = output_labels(manifest)
    if label is None:
        return 0 if manifest.task == "regression" else int(torch.argmax(answers))
    if label not in labels:
        raise ExplainError(f"label {label!r} is not one of {', '.join(labels[:20])}")
    return labels.index(label)
