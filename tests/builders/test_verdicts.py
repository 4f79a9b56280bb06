"""What answers say, when they are right, and when two of them say the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium_builders.samples import Sample
from tritium_builders.verdicts import Meaning, own_is_closest, spans_of
from tritium_client._results import Tag
from tritium_client._tags import read_entities

CLASSES = Meaning("classification", ("cat", "dog"))
MOODS = Meaning("multilabel", ("calm", "dark", "sad"), thresholds=(0.5, 0.3, 0.9))
PRICES = Meaning("regression", ("price", "tax"), units=(10.0, 2.0))
TAGS = Meaning("tagging", ("O", "B-PER", "I-PER"))
VECTORS = Meaning("embedding", ())


def sample(label: str | None = None, target: object = None) -> Sample:
    return Sample("one", "text", b"x", label=label, target=target)  # type: ignore[arg-type]


def values(*numbers: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(numbers, np.float32)


def test_a_class_is_right_or_not() -> None:
    said = CLASSES.says(values(0.4, 0.6))
    assert said.is_right(sample("dog"))
    assert not said.is_right(sample("cat"))
    assert said.agrees(CLASSES.says(values(0.1, 0.9)))


def test_a_set_of_labels_has_to_be_exactly_right() -> None:
    said = MOODS.says(values(0.5, 0.31, 0.8))
    assert said.is_right(sample(target=("dark", "calm")))
    assert not said.is_right(sample(target=("calm",)))
    assert MOODS.says(values(0.1, 0.1, 0.1)).is_right(sample(target=()))


def test_scores_are_right_within_half_of_their_spread() -> None:
    said = PRICES.says(values(100, 20))
    assert said.is_right(sample(target=(105.0, 19.0)))
    assert not said.is_right(sample(target=(105.1, 20.0)))
    assert not said.is_right(sample(target=(100.0, 21.1)))
    assert said.agrees(PRICES.says(values(96, 20)))


def test_entities_have_to_be_exactly_right() -> None:
    rows = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], np.float32)
    said = TAGS.says(rows, [(0, 3), (4, 7), (8, 9)])
    assert said.is_right(sample(target=((0, 7, "PER"),)))
    assert not said.is_right(sample(target=((0, 3, "PER"),)))


def test_vectors_say_the_same_when_they_point_the_same_way() -> None:
    one = VECTORS.says(values(1, 0))
    assert one.agrees(VECTORS.says(values(2, 0.1)))
    assert not one.agrees(VECTORS.says(values(1, 1)))
    assert not one.agrees(VECTORS.says(values(1, 0, 0)))
    texts = [values(1, 0), values(0, 1)]
    assert own_is_closest(texts, [values(1, 0.1), values(0.9, 0)]) == [True, False]


@pytest.mark.parametrize("meaning", [CLASSES, MOODS, PRICES])
def test_what_is_no_answer_is_refused(meaning: Meaning) -> None:
    with pytest.raises(ValueError, match="4 values in place of"):
        meaning.says(values(0.1, 0.2, 0.3, 0.4))
    with pytest.raises(ValueError, match="not finite"):
        meaning.says(np.full(len(meaning.labels), np.nan))


@given(st.lists(st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B", "X"]), max_size=12))
def test_entities_are_those_of_the_sdk(tags: list[str]) -> None:
    offsets = [(4 * index, 4 * index + 3) for index in range(len(tags))]
    text = "abc " * len(tags)
    read = read_entities(
        text,
        [
            Tag(text[begin:end], begin, end, tag, 1.0)
            for tag, (begin, end) in zip(tags, offsets, strict=True)
        ],
    )
    assert spans_of(tags, offsets) == [(one.start, one.end, one.label) for one in read]
