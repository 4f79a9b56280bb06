"""The accuracy gate: what a reduced precision costs in right answers, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

from tritium_builders.bundle import Bundle
from tritium_builders.bundle_schema import head_role
from tritium_builders.errors import AccuracyError
from tritium_builders.release import AccuracyReport
from tritium_builders.samples import Sample
from tritium_builders.stages import Servables, run_stages
from tritium_builders.tasks import answer_tensor
from tritium_builders.verdicts import Verdict, meaning_of, own_is_closest

LARGEST_LOSS_POINTS = 0.5
"""Percentage points of right answers that a reduced precision may lose."""
_Z95 = 1.959964


def compare_answers(
    fp32: Sequence[bool], reduced: Sequence[bool], *, labelled: bool = True
) -> AccuracyReport:
    """Count pairs: how often each of two precisions is right about the same samples.

    Args:
        fp32: Whether each sample was answered rightly in fp32.
        reduced: The same of the reduced precision.
        labelled: False where "right" means fp32's own answer.

    Raises:
        ValueError: when there are no samples.
    """
    if not fp32:
        raise ValueError("there are no samples to compare on")
    counts = {(first, second): 0 for first in (True, False) for second in (True, False)}
    for pair in zip(fp32, reduced, strict=True):
        counts[pair] += 1
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
    """End the build when more right answers are lost than may be.

    Raises:
        AccuracyError: with the paired counts and the interval.
    """
    if report.points < -LARGEST_LOSS_POINTS:
        raise AccuracyError(
            f"accuracy: {precision} loses {-report.points:.2f} points of accuracy, and may lose "
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

    The bundle's validation samples are answered; `verdicts` says what is right for each task. A
    bundle without labelled samples is measured by how often the answer stays fp32's, on all the
    samples that it has.

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
            AccuracyError: more right answers are lost than may be.
        """
        after = self._answers(reduced, precision)
        if self._manifest.task == "embedding":  # which text belongs to which picture is known
            before, then, labelled = self._pairs(self._fp32), self._pairs(after), True
        elif all(sample.is_labelled for sample in self._samples):
            before, then, labelled = self._right(self._fp32), self._right(after), True
        else:
            found = zip(after[0], self._fp32[0], strict=True)
            before, labelled = [True] * len(after[0]), False
            then = [ours.agrees(fp32) for ours, fp32 in found]
        report = compare_answers(before, then, labelled=labelled)
        require_accuracy(report, precision)
        return report

    def _right(self, answers: Sequence[Sequence[Verdict]]) -> list[bool]:
        pairs = zip(answers[0], self._samples, strict=True)
        return [verdict.is_right(sample) for verdict, sample in pairs]

    @staticmethod
    def _pairs(answers: Sequence[Sequence[Verdict]]) -> list[bool]:
        texts, images = ([one.vector for one in verdicts] for verdicts in answers)
        return own_is_closest(texts, images)

    @cached_property
    def _fp32(self) -> list[list[Verdict]]:
        return self._answers(self._servables, "fp32")

    def _answers(self, servables: Servables, name: str) -> list[list[Verdict]]:
        """What the main entry point says of each sample; of vectors, both entry points."""
        manifest = self._manifest
        asked = manifest.entry_points[: 2 if manifest.task == "embedding" else 1]
        heads = [head_role(given) for given in asked]
        stages = run_stages(
            manifest,
            servables,
            self._samples,
            keep=heads,
            progress=lambda item: self._progress("accuracy", f"{name}, {item}"),
        )
        meaning = meaning_of(manifest)
        return [
            [
                meaning.says(answer[tensor][0], offsets)
                for answer, offsets in zip(stages[head].outputs, stages[head].offsets, strict=True)
            ]
            for head in heads
            for tensor in [answer_tensor(manifest.task)]
        ]
