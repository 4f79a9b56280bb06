"""Accuracy, macro F1 and calibration error, on figures that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tritium_builders.training.metrics import accuracy, calibration_error, macro_f1


def probabilities(*best: tuple[int, float]) -> np.ndarray:  # type: ignore[type-arg]
    """Of three labels: the best one and its probability; the others share the rest."""
    rows = np.empty((len(best), 3), np.float32)
    for row, (label, probability) in zip(rows, best, strict=True):
        row[:] = (1 - probability) / 2
        row[label] = probability
    return rows


def test_accuracy_is_the_share_of_right_labels() -> None:
    answers = probabilities((0, 0.9), (1, 0.9), (2, 0.9), (0, 0.9))
    assert accuracy(answers, np.array([0, 1, 2, 1])) == 0.75


def test_macro_f1_weighs_labels_and_not_items() -> None:
    """Eight of nine right, but the rare label is never found: (16/17 + 0 + 0) / 3."""
    answers = probabilities(*[(0, 0.9)] * 9)
    assert macro_f1(answers, np.array([0] * 8 + [1])) == pytest.approx(16 / 17 / 3)


def test_calibration_error_by_hand() -> None:
    # One bin: 0.8 said, half right. Another: 1.0 said, all right. 2 of 4 items are 0.3 off.
    answers = probabilities((0, 0.8), (1, 0.8), (2, 1.0), (2, 1.0))
    assert calibration_error(answers, np.array([0, 0, 2, 2])) == pytest.approx(0.15, abs=1e-6)


def test_errors_of_one_bin_cancel_and_those_of_two_do_not() -> None:
    answers = probabilities((0, 0.6), (0, 0.9))
    targets = np.array([0, 1])  # 0.4 too little, 0.9 too much
    assert calibration_error(answers, targets, bins=1) == pytest.approx(0.25, abs=1e-6)
    assert calibration_error(answers, targets, bins=15) == pytest.approx(0.65, abs=1e-6)


def test_bins_are_closed_on_the_right() -> None:
    answers = np.array([[0.5, 0.5], [0.75, 0.25]], np.float32)
    # (0, 0.5] and (0.5, 1]: apart. With bins closed on the left they would cancel in part.
    assert calibration_error(answers, np.array([0, 1]), bins=2) == pytest.approx(0.625, abs=1e-6)


def test_certain_and_right_is_calibrated() -> None:
    answers = probabilities((0, 1.0), (1, 1.0))
    assert calibration_error(answers, np.array([0, 1])) == 0.0
