"""The accuracy gate: paired counts, their interval, and half a point."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium_builders.errors import AccuracyError
from tritium_builders.precision.accuracy import (
    compare_answers,
    describe,
    paired_interval,
    require_accuracy,
)


def answers(lost: int, won: int, same: int) -> tuple[list[bool], list[bool]]:
    """Whether fp32 is right, and whether the reduced precision is."""
    fp32 = [True] * lost + [False] * won + [True] * same
    reduced = [False] * lost + [True] * won + [True] * same
    return fp32, reduced


def test_pairs_are_counted() -> None:
    report = compare_answers([True, False, True, False], [True, True, False, False])
    assert (report.both_right, report.only_fp32_right) == (1, 1)
    assert (report.only_this_right, report.both_wrong) == (1, 1)
    assert (report.points, report.samples, report.labelled) == (0.0, 4, True)


@pytest.mark.parametrize(("lost", "passes"), [(0, True), (1, True), (2, False), (20, False)])
def test_half_a_point_may_be_lost(lost: int, passes: bool) -> None:
    """One of 200 is half a point."""
    report = compare_answers(*answers(lost, 0, 200 - lost))
    if passes:
        require_accuracy(report, "int8")
        return
    with pytest.raises(AccuracyError) as caught:
        require_accuracy(report, "int8")
    message = str(caught.value)
    assert f"int8 loses {lost / 2:.2f} points of accuracy, and may lose 0.5" in message
    assert f"only fp32 {lost}, only this 0" in message
    assert "95 % interval" in message
    assert "nothing was published" in message


def test_what_is_won_makes_up_for_what_is_lost() -> None:
    require_accuracy(compare_answers(*answers(30, 30, 40)), "fp16")


def test_without_labels_fp32s_answers_are_what_is_right() -> None:
    report = compare_answers([True, True], [True, False], labelled=False)
    assert not report.labelled
    assert (report.both_right, report.only_fp32_right) == (1, 1)
    assert "no labels" in describe(report)
    with pytest.raises(AccuracyError, match="no labels"):
        require_accuracy(report, "fp16")


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        compare_answers([], [])


def test_the_interval_is_agresti_and_mins() -> None:
    """Worked by hand: (5.5 - 12.5) / 102 -+ 1.96 * sqrt((18 / 102 - 0.0686**2) / 102)."""
    low, high = paired_interval(lost=12, won=5, samples=100)
    assert low == pytest.approx(-14.91, abs=0.01)
    assert high == pytest.approx(1.18, abs=0.01)


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_the_interval_holds_the_difference(lost: int, won: int, same: int) -> None:
    samples = lost + won + same
    if not samples:
        return
    low, high = paired_interval(lost, won, samples)
    shrunk = 100 * (won - lost) / (samples + 2)
    assert -100 <= low <= shrunk <= high <= 100
    mirrored = paired_interval(won, lost, samples)
    assert mirrored == pytest.approx((-high, -low))
