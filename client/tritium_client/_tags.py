"""From the probabilities of each word to tags, and from tags to what they mark.

Source: Ramshaw and Marcus 1995, "Text Chunking using Transformation-Based Learning" (BIO tags).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tritium_client._results import Entity, Tag


def read_tags(
    text: str,
    labels: Sequence[str],
    probabilities: npt.NDArray[np.float32],
    offsets: Sequence[tuple[int, int]],
) -> tuple[Tag, ...]:
    """The most probable tag of each word.

    Args:
        text: What was asked about.
        labels: The tags, in the order of the probabilities.
        probabilities: FP32 [words, labels].
        offsets: Each word's first character in the text, and the one after its last.
    """
    best = probabilities.argmax(axis=1)
    return tuple(
        Tag(text[start:end], start, end, labels[tag], float(row[tag]))
        for (start, end), tag, row in zip(offsets, best, probabilities, strict=True)
    )


def read_entities(text: str, tags: Sequence[Tag]) -> tuple[Entity, ...]:
    """What BIO tags mark: `B-X` begins an X, `I-X` goes on with it.

    An `I-X` that follows no X begins one, as seqeval and conlleval read it. Tags without a prefix
    (`O` and any other) mark nothing.
    """
    groups: list[tuple[str, list[Tag]]] = []
    before = ""
    for tag in tags:
        prefix, _, label = tag.tag.partition("-")
        if prefix == "I" and label and label == before:
            groups[-1][1].append(tag)
        elif prefix in {"B", "I"} and label:
            groups.append((label, [tag]))
        before = label if prefix in {"B", "I"} else ""
    return tuple(
        Entity(
            label,
            text[words[0].start : words[-1].end],
            words[0].start,
            words[-1].end,
            sum(word.probability for word in words) / len(words),
        )
        for label, words in groups
    )
