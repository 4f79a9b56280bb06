"""The accuracy gate: what a reduced precision costs in top-1, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

from tritium_builders.bundle import Bundle
from tritium_builders.bundle_schema import head_role
from tritium_builders.errors import AccuracyError
from tritium_builders.release import AccuracyReport
from tritium_builders.samples import Sample
from tritium_builders.stages import Servables, run_stages, top_answers

LARGEST_LOSS_POINTS = 0.5
"""Percentage points of top-1 that a reduced precision may lose."""
_Z95 = 1.959964


def compare_answers(
    right: Sequence[str | None], fp32: Sequence[str], reduced: Sequence[str]
) -> AccuracyReport:
    """Count pairs: how often each of two precisions is right about the same samples.

    Args:
        right: The annotator's label of each sample; None where nobody said. When any is missing,
            fp32's own answer counts as right for all of them.
        fp32: Answers in fp32.
        reduced: Answers in the reduced precision.

    Raises:
        ValueError: when there are no samples.
    """
    if not fp32:
        raise ValueError("there are no samples to compare on")
    labelled = all(label is not None for label in right)
    truth = right if labelled else fp32
    counts = {(first, second): 0 for first in (True, False) for second in (True, False)}
    for label, before, after in zip(truth, fp32, reduced, strict=True):
        counts[before == label, after == label] += 1
    lost, won = counts[True, False], counts[False, True]
    return AccuracyReport(
        samples=len(fp32),
        labelled=labelled,
        both_right=counts[True, True],
        only_fp32_right=lost,
        only_this_right=won,
        both_wrong=counts[False, False],
        points=100 * (won - lost) / len(fp32),
        interval=paired_interval(lost, won, len(fp32)),
    )


def paired_interval(lost: int, won: int, samples: int) -> tuple[float, float]:
    """95 % confidence interval of the difference of two paired proportions, in points.

    Half a sample is added to each of the four counts, which keeps the interval honest when
    nothing, or nearly nothing, changed.

    Source: Agresti & Min 2005, "Simple improved confidence intervals for comparing matched
    proportions", Statistics in Medicine 24(5).
    """
    total = samples + 2
    gained, given = (won + 0.5) / total, (lost + 0.5) / total
    difference = gained - given
    spread = _Z95 * math.sqrt(max(gained + given - difference**2, 0.0) / total)
    return 100 * max(-1.0, difference - spread), 100 * min(1.0, difference + spread)


def require_accuracy(report: AccuracyReport, precision: str) -> None:
    """End the build when top-1 loses more than it may.

    Raises:
        AccuracyError: with the paired counts and the interval.
    """
    if report.points < -LARGEST_LOSS_POINTS:
        raise AccuracyError(
            f"accuracy: {precision} loses {-report.points:.2f} points of top-1, and may lose "
            f"{LARGEST_LOSS_POINTS}; {describe(report)}",
            "Use another precision, or a bundle with more calibration samples",
        )


def describe(report: AccuracyReport) -> str:
    """The paired counts and the interval, in one line."""
    who = "right" if report.labelled else "equal to fp32's answer (the samples have no labels)"
    low, high = report.interval
    return (
        f"{report.points:+.2f} points (95 % interval {low:+.2f} to {high:+.2f}) on "
        f"{report.samples} samples: both {who} {report.both_right}, only fp32 "
        f"{report.only_fp32_right}, only this {report.only_this_right}, neither "
        f"{report.both_wrong}"
    )


class AccuracyGate:
    """Holds reduced precisions of an app against its answers in fp32, which are made once.

    The bundle's validation samples are answered. A bundle without labelled samples is measured by
    how often the answer stays fp32's, on all the samples that it has.

    Args:
        bundle: Whose samples.
        fp32: What answers in fp32.
        progress: Told the step and how far it is.
    """

    def __init__(
        self,
        bundle: Bundle,
        fp32: Servables,
        progress: Callable[[str, str], None] = lambda _step, _item: None,
    ) -> None:
        self._manifest = bundle.manifest
        self._samples: Sequence[Sample] = bundle.validation or (
            *bundle.golden,
            *bundle.calibration,
        )
        self._servables = fp32
        self._progress = progress

    def require(self, reduced: Servables, precision: str) -> AccuracyReport:
        """Answer in the reduced precision, and compare.

        Args:
            reduced: What answers in it.
            precision: Its name.

        Raises:
            AccuracyError: top-1 loses more than it may.
        """
        right = [sample.label for sample in self._samples]
        report = compare_answers(right, self._fp32, self._answers(reduced, precision))
        require_accuracy(report, precision)
        return report

    @cached_property
    def _fp32(self) -> list[str]:
        return self._answers(self._servables, "fp32")

    def _answers(self, servables: Servables, name: str) -> list[str]:
        head = head_role(self._manifest.entry_points[0])
        stages = run_stages(
            self._manifest,
            servables,
            self._samples,
            keep=(head,),
            progress=lambda item: self._progress("accuracy", f"{name}, {item}"),
        )
        return top_answers(stages[head], self._manifest.labels)
