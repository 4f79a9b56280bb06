"""Figures over repeats: how much faster, and how sure that is.

Throughput of two contenders is compared within each repeat, where they ran one after the other, and
only then over the repeats: what slows the machine for a while cancels out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tritium_benchmarks.contenders import LIMIT, TRITIUM
from tritium_benchmarks.records import Measurement, RunRecord, Tool

CONFIDENCE = 0.95
AGREE_WITHIN = 0.10
"""The first and the second half of a run's repeats are two runs; their ratios must agree so far."""


@dataclass(frozen=True)
class Ratio:
    """A ratio with its 95 % confidence interval, from the logarithms of paired ratios."""

    value: float
    """Geometric mean over the repeats."""
    low: float
    high: float
    halves: tuple[float, float] | None
    """The ratio in the first and in the second half of the repeats; None for a single repeat."""

    @property
    def agrees(self) -> bool:
        """Whether two runs would have said the same, within a tenth."""
        if self.halves is None:
            return False
        first, second = self.halves
        return max(first, second) <= min(first, second) * (1 + AGREE_WITHIN)

    def __str__(self) -> str:
        """As `2.31 (2.20 to 2.42)`."""
        if self.low == self.high:
            return f"{self.value:.2f}"
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def paired(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """The ratio of two series that were measured in turns.

    Args:
        above: Positive values, one for each repeat.
        below: As many.

    Raises:
        ValueError: series of different lengths, or empty.
    """
    logs = [math.log(a / b) for a, b in zip(above, below, strict=True)]
    if not logs:
        raise ValueError("there is nothing to compare")
    mean, half = _interval(logs)
    middle = (len(logs) + 1) // 2
    halves = None
    if len(logs) > 1:
        parts = logs[:middle], logs[middle:]
        halves = (math.exp(statistics.fmean(parts[0])), math.exp(statistics.fmean(parts[1])))
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half), halves)


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its confidence interval (Student's t)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, 0.0
    from scipy import stats

    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return mean, quantile * statistics.stdev(values) / math.sqrt(len(values))


def series(record: RunRecord, contender: str, tool: Tool, load: str | None) -> list[Measurement]:
    """What was measured of a contender under one load, in the order of the repeats.

    Args:
        record: The run.
        contender: Its name.
        tool: Who asked.
        load: Which load; None where there is but one.
    """
    found = [
        line
        for line in record.measurements
        if line.contender == contender and line.tool == tool and load in {None, line.load}
    ]
    return sorted(found, key=lambda line: line.repeat)


def loads(record: RunRecord) -> list[str]:
    """The loads that Tritium was measured under, in their order; peaks of open loops left out."""
    names = [line.load for line in record.measurements if line.contender == TRITIUM]
    return [name for name in dict.fromkeys(names) if name != "peak"]


def closed_loads(record: RunRecord) -> list[str]:
    """The loads whose throughput says how fast somebody is; at a rate, it is what was sent."""
    lines = [line for line in record.measurements if line.contender == TRITIUM]
    return list(dict.fromkeys(line.load for line in lines if line.rate is None))


def complete_repeats(record: RunRecord) -> int:
    """How many repeats hold every measurement; an interrupted run's last one does not."""
    wanted = {
        (line.contender, line.tool, line.load) for line in record.measurements if line.repeat == 0
    }
    count = 0
    while wanted and wanted == {
        (line.contender, line.tool, line.load)
        for line in record.measurements
        if line.repeat == count
    }:
        count += 1
    return count


def per_second(
    record: RunRecord, contender: str, load: str | None, tool: Tool = "driver"
) -> list[float]:
    """Answers per second, one figure for each complete repeat."""
    count = complete_repeats(record)
    lines = series(record, contender, tool, load)
    return [line.per_second for line in lines if line.repeat < count]


def against(record: RunRecord, baseline: str, load: str) -> Ratio | None:
    """Tritium's throughput over a baseline's under one load; None where one was not measured."""
    ours, theirs = per_second(record, TRITIUM, load), per_second(record, baseline, load)
    return paired(ours, theirs) if ours and len(ours) == len(theirs) else None


def best_against(record: RunRecord, baseline: str) -> Ratio | None:
    """Tritium's best throughput over a baseline's best, each under the load that suits it."""
    ours, theirs = best(record, TRITIUM), best(record, baseline)
    return paired(ours, theirs) if ours and len(ours) == len(theirs) else None


def of_limit(record: RunRecord, load: str | None) -> Ratio | None:
    """Tritium's throughput over the in-process limit.

    Args:
        record: The run.
        load: Which load, asked by the driver; None for the best one.
    """
    limit = per_second(record, LIMIT, None, "in_process")
    ours = best(record, TRITIUM) if load is None else per_second(record, TRITIUM, load)
    return paired(ours, limit) if ours and len(ours) == len(limit) else None


def best(record: RunRecord, contender: str) -> list[float]:
    """A contender's answers per second, by repeat, under the load where it answers most."""
    candidates = [per_second(record, contender, load) for load in closed_loads(record)]
    candidates = [values for values in candidates if values]
    return max(candidates, key=statistics.median, default=[])


def headline(record: RunRecord) -> dict[str, Ratio]:
    """Best throughput over each baseline's best, and over the limit; what a reader will quote."""
    found = {
        name: best_against(record, name)
        for name in record.contenders
        if name not in {TRITIUM, LIMIT}
    }
    found[LIMIT] = of_limit(record, None)
    return {name: ratio for name, ratio in found.items() if ratio is not None}


def noise(record: RunRecord) -> list[str]:
    """Why the headline must not be printed; empty where the two halves of the run agree."""
    if complete_repeats(record) < 2:
        return ["there are fewer than two complete repeats"]
    return [
        f"{record.contenders[name]}: {ratio.halves[0]:.2f} in the first half of the repeats, "
        f"{ratio.halves[1]:.2f} in the second"
        for name, ratio in headline(record).items()
        if not ratio.agrees and ratio.halves is not None
    ]
