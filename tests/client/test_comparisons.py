"""Comparing the answers of two releases, and adding comparisons up."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium_client import ShadowReport
from tritium_client._shadows import LOG_EVERY_S, WINDOW, Comparison, Tallies, Tally, compare
from tritium_client._wire import Answer, EntryPointConfig


def annotated(values: list[float], thresholds: list[float]) -> Answer:
    labels = ("a", "b")
    release = EntryPointConfig(
        "pets", 1, "x", labels, ("text",), "mock", "fp32", "1.3", (), "", tuple(thresholds)
    )
    return Answer(release, np.array(values, np.float32))


def test_label_sets_agree_when_the_same_labels_hold() -> None:
    one, other = annotated([0.6, 0.2], [0.5, 0.5]), annotated([0.45, 0.3], [0.4, 0.5])
    found = compare("annotate", one, other)
    assert found is not None
    assert found.agree
    assert found.difference == pytest.approx(0.15, abs=1e-6)
    fewer = compare("annotate", one, annotated([0.45, 0.3], [0.5, 0.5]))
    assert fewer is not None
    assert fewer.agree is False


def answer(labels: tuple[str, ...], values: Any, offsets: Any = ()) -> Answer:
    release = EntryPointConfig("pets", 1, "x", labels, ("text",), "mock", "fp32", "1.2", (), "")
    return Answer(release, np.array(values, np.float32), tuple(offsets))


def probabilities(weights: list[float]) -> list[float]:
    total = sum(weights)
    return [weight / total for weight in weights]


WEIGHTS = st.lists(st.floats(0.01, 1), min_size=1, max_size=6).map(probabilities)
NAMES = st.permutations(["a", "b", "c", "d", "e", "f"])


@st.composite
def classes(draw: st.DrawFn) -> Answer:
    values = draw(WEIGHTS)
    return answer(tuple(draw(NAMES)[: len(values)]), values)


@given(classes(), classes())
def test_the_distance_of_two_classifications(one: Answer, other: Answer) -> None:
    found, mirrored = compare("classify", one, other), compare("classify", other, one)
    assert found is not None
    assert mirrored is not None
    assert -1e-6 <= found.difference <= 1 + 1e-6
    assert found.difference == pytest.approx(mirrored.difference, abs=1e-9)
    assert found.agree == mirrored.agree
    if not set(one.release.labels) & set(other.release.labels):
        assert found.difference == pytest.approx(1, abs=1e-5)


@given(classes(), st.randoms())
def test_the_order_of_labels_does_not_matter(one: Answer, random: Any) -> None:
    order = list(range(len(one.release.labels)))
    random.shuffle(order)
    labels = tuple(one.release.labels[index] for index in order)
    found = compare("classify", one, answer(labels, one.values[order]))
    assert found is not None
    assert found.difference == 0
    if len(set(one.values.tolist())) == len(one.values):
        assert found.agree


def test_tags_are_compared_word_by_word() -> None:
    first, second = (0, 3), (4, 7)
    one = answer(("O", "X"), [[1, 0], [0, 1]], [first, second])
    same = answer(("X", "O"), [[0, 1], [1, 0]], [first, second])
    assert compare("tag", one, same) == Comparison(True, 0)
    half = answer(("O", "X"), [[1, 0], [1, 0]], [first, second])
    assert compare("tag", one, half) == Comparison(False, 0.5)
    otherwise = answer(("O", "X"), [[1, 0], [0, 1]], [first, (4, 6)])
    assert compare("tag", one, otherwise) == Comparison(False, 2 / 3)
    nothing = answer(("O", "X"), np.zeros((0, 2)))
    assert compare("tag", nothing, nothing) == Comparison(True, 0)


def test_scores_are_compared_by_name() -> None:
    one, other = answer(("a", "b"), [1, 5]), answer(("b", "a"), [4.5, 2])
    assert compare("score", one, other) == Comparison(None, 1)
    assert compare("score", one, answer(("a",), [1])) is None
    assert compare("score", one, answer(("a", "b"), [1, math.nan])) is None


@given(st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=5))
def test_the_difference_of_vectors_is_that_of_their_directions(values: list[float]) -> None:
    one = answer((), values)
    found = compare("embed", one, answer((), [3 * value for value in values]))
    if np.linalg.norm(one.values.astype(np.float64)) ** 2 == 0:
        assert found is None
        return
    assert found is not None
    assert found.difference == pytest.approx(0, abs=1e-4)
    opposite = compare("embed", one, answer((), [-value for value in values]))
    assert opposite is not None
    assert opposite.difference == pytest.approx(2, abs=1e-4)


def test_vectors_of_other_sizes_do_not_compare() -> None:
    assert compare("embed", answer((), [1, 2]), answer((), [1, 2, 3])) is None
    assert compare("embed", answer((), [1, 2]), answer((), [0, 0])) is None
    assert compare("embed", answer((), [1, 0]), answer((), [0, 2])) == Comparison(None, 1)


COMPARISONS = st.lists(
    st.tuples(st.booleans(), st.floats(0, 1), st.floats(0, 10), st.floats(0, 10)) | st.none(),
    max_size=60,
)


@given(COMPARISONS, st.integers(0, 5))
def test_a_report_sums_up(ends: list[Any], dropped: int) -> None:
    tally = Tally("pets", "classify", 2, 1)
    for end in ends:
        if end is None:
            tally.fail()
        else:
            tally.add(Comparison(end[0], end[1]), end[2], end[3])
    for _ in range(dropped):
        tally.drop()
    report = tally.report()
    compared = [end for end in ends if end is not None]
    assert (report.requests, report.failed) == (len(ends), len(ends) - len(compared))
    assert report.dropped == dropped
    if not compared:
        assert report.agreement is report.mean_difference is report.largest_difference is None
        assert report.live_latency_s is report.candidate_latency_s is None
        return
    assert report.agreement == pytest.approx(np.mean([end[0] for end in compared]))
    assert report.mean_difference == pytest.approx(np.mean([end[1] for end in compared]))
    assert report.largest_difference == max(end[1] for end in compared)
    assert report.live_latency_s == pytest.approx(np.median([end[2] for end in compared]))
    assert report.candidate_latency_s == pytest.approx(np.median([end[3] for end in compared]))


def test_the_memory_of_a_report_is_bounded() -> None:
    tally = Tally("pets", "score", 2, 1)
    for number in range(3 * WINDOW):
        tally.add(Comparison(None, 0.0), number, 0.0)
    report = tally.report()
    assert (report.requests, report.agreement) == (3 * WINDOW, None)
    assert report.live_latency_s == 2.5 * WINDOW - 0.5, "of the last ones"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_report_is_logged_at_most_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    tally = Tally("pets", "classify", 2, 1, clock)
    with caplog.at_level(logging.INFO, "tritium_client"):
        for _ in range(10 * int(LOG_EVERY_S)):
            clock.now += 0.25
            tally.add(Comparison(True, 0.125), 0.002, 0.003)
            tally.fail()
        assert len(caplog.records) == 2
        tally.log(last=True)
        assert len(caplog.records) == 2, "the last one is younger than a minute"
        idle = Tally("pets", "classify", 2, 1, clock)
        idle.log(last=True)
        assert len(caplog.records) == 2, "nothing to tell"
        idle.fail()
        idle.log(last=True)
        assert len(caplog.records) == 3, "nothing was told yet"
    assert caplog.records[0].getMessage() == (
        "pets classify: release 2 in the shadow of 1: 479 requests, 239 failed, 0 dropped, "
        "100.00% agree, difference 0.125, at most 0.125, median latency 3.0 ms beside 2.0 ms"
    )


def test_what_another_entry_point_knew_before_starts_no_report() -> None:
    """Each reads its rollout by itself; one may follow a few seconds after another."""
    tallies = Tallies()
    old = tallies.of("pets", "classify", 2, 1, read_at=10.0)
    assert tallies.of("pets", "classify", 2, 1, read_at=8.0) is old
    new = tallies.of("pets", "classify", 3, 1, read_at=12.0)
    assert new is not None
    assert new is not old
    assert tallies.of("pets", "classify", 2, 1, read_at=11.0) is None
    assert tallies.of("pets", "classify", 3, 1, read_at=14.0) is new
    again = tallies.of("pets", "classify", 2, 1, read_at=15.0)
    assert again not in (None, old, new)
    assert tallies.report("pets", None) == ShadowReport("pets", "classify", 2, 1)
