"""Two runs side by side: what changed, and whether that is more than their noise.

for change in compare(read_record("old"), read_record("new")):
    print(change.contender, change.load, change.throughput, change.verdict)
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tritium_benchmarks.errors import BenchmarkError
from tritium_benchmarks.ratios import CONFIDENCE, Ratio, complete_repeats, series
from tritium_benchmarks.records import Measurement, RunRecord, Tool

Verdict = Literal["faster", "slower", "within noise", "one repeat: no telling", "sent at a rate"]
MACHINE = ("processor", "cores", "flags")
"""What must be equal, or the runs cannot be compared."""


@dataclass(frozen=True)
class Change:
    """One contender under one load, in the new run against the old one."""

    contender: str
    tool: Tool
    load: str
    old: float
    """Answers per second, mean."""
    new: float
    open_loop: bool
    """Requests were sent at a rate: throughput says how many, not how fast somebody is."""
    repeats: int
    """Of the run that has fewer."""
    throughput: Ratio
    """New over old; `halves` is None, the runs were not made in turns."""
    p50: float | None
    """New median latency over the old one."""
    p99: float | None

    @property
    def verdict(self) -> Verdict:
        """Whether the change is more than the repeats' own spread."""
        if self.open_loop:
            return "sent at a rate"
        if self.repeats < 2:
            return "one repeat: no telling"
        if self.throughput.low > 1:
            return "faster"
        return "slower" if self.throughput.high < 1 else "within noise"


def compare(old: RunRecord, new: RunRecord) -> list[Change]:
    """Compare what both runs measured.

    Raises:
        BenchmarkError: the runs ask for different work, or have nothing in common.
    """
    if old.app != new.app:
        raise BenchmarkError(f"the old run is of app {old.app}, the new one of {new.app}")
    if old.workload != new.workload:
        raise BenchmarkError(
            f"the old run's workload ({old.workload.name}) is not the new one's "
            f"({new.workload.name}), or was changed since; measure both with the same file"
        )
    keys = dict.fromkeys((line.contender, line.tool, line.load) for line in old.measurements)
    found = []
    for contender, tool, load in keys:
        before = _complete(old, series(old, contender, tool, load))
        after = _complete(new, series(new, contender, tool, load))
        if before and after:
            found.append(_change(before, after))
    if not found:
        raise BenchmarkError("the two runs have no complete measurement in common")
    return found


def differences(old: RunRecord, new: RunRecord) -> list[str]:
    """What differs between the machines; figures of two machines say nothing about a change."""
    return [
        f"{key}: {old.manifest.get(key)} then, {new.manifest.get(key)} now"
        for key in MACHINE
        if old.manifest.get(key) != new.manifest.get(key)
    ]


def _complete(record: RunRecord, lines: Sequence[Measurement]) -> list[Measurement]:
    count = complete_repeats(record)
    return [line for line in lines if line.repeat < count]


def _change(before: Sequence[Measurement], after: Sequence[Measurement]) -> Change:
    old = [line.per_second for line in before]
    new = [line.per_second for line in after]
    first = before[0]
    return Change(
        contender=first.contender,
        tool=first.tool,
        load=first.load,
        old=statistics.fmean(old),
        new=statistics.fmean(new),
        open_loop=first.rate is not None,
        repeats=min(len(old), len(new)),
        throughput=unpaired(new, old),
        p50=_latency_ratio(before, after, "p50"),
        p99=_latency_ratio(before, after, "p99"),
    )


def unpaired(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """The ratio of two series that were not measured in turns (Welch's t on the logarithms).

    Args:
        above: Positive values.
        below: Positive values, as many or not.
    """
    logs = [[math.log(value) for value in values] for values in (above, below)]
    difference = statistics.fmean(logs[0]) - statistics.fmean(logs[1])
    half = _welch(*logs) if min(len(above), len(below)) > 1 else 0.0
    return Ratio(
        math.exp(difference), math.exp(difference - half), math.exp(difference + half), None
    )


def _welch(first: Sequence[float], second: Sequence[float]) -> float:
    """Half the width of the confidence interval of two means' difference.

    Source: Welch, "The generalization of Student's problem when several different population
    variances are involved", Biometrika 34 (1947).
    """
    from scipy import stats

    errors = [statistics.variance(values) / len(values) for values in (first, second)]
    if sum(errors) == 0:
        return 0.0
    freedom = sum(errors) ** 2 / sum(
        error**2 / (len(values) - 1) for error, values in zip(errors, (first, second), strict=True)
    )
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(sum(errors))


def _latency_ratio(
    before: Sequence[Measurement], after: Sequence[Measurement], field: str
) -> float | None:
    old = [getattr(line.latency, field) for line in before if line.latency is not None]
    new = [getattr(line.latency, field) for line in after if line.latency is not None]
    return statistics.median(new) / statistics.median(old) if old and new else None
