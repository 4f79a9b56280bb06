"""Search the setting with the highest throughput whose p99 stays under a bound.

found = search(trial, start, p99_ms=200, budget_s=300, cores=2)
found.best.setting, found.best.per_second
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tritium_benchmarks.errors import BenchmarkError
from tritium_benchmarks.ratios import Ratio, paired
from tritium_benchmarks.tune.space import Question, Setting, questions

FINALS = 3
"""Turns that the winner and the start take at the end."""
FINALS_SHARE = 0.3
"""Of the budget, kept for them."""


@dataclass(frozen=True)
class Score:
    """What one setting reached once."""

    setting: Setting
    in_flight: int
    """The load under which it answered most within the bound."""
    per_second: float
    p99_ms: float
    within: bool
    """Whether any load kept p99 under the bound; else this is the load that came closest."""

    @property
    def rank(self) -> tuple[bool, float]:
        """Higher is better: within the bound first, then more answers, or a smaller p99."""
        return self.within, self.per_second if self.within else -self.p99_ms


@dataclass(frozen=True)
class Found:
    """How a search ended."""

    start: Setting
    """What the release has."""
    best: Score
    tried: tuple[Score, ...]
    gain: Ratio | None
    """The best setting's throughput over the start's, measured in turns; None where it is the start
    or where the budget left no time."""

    @property
    def pays(self) -> bool:
        """Whether the best setting is better than the start by more than the noise."""
        return self.gain is not None and self.gain.low > 1


Trial = Callable[[Setting], Score]
"""Serves a setting and measures it."""


@dataclass
class _Clock:
    budget_s: float
    began: float = field(default_factory=time.monotonic)
    longest: float = 0.0
    """Seconds of the longest trial so far."""

    @property
    def left_s(self) -> float:
        return self.budget_s - (time.monotonic() - self.began)

    def time(self, trial: Trial, setting: Setting) -> Score:
        began = time.monotonic()
        score = trial(setting)
        self.longest = max(self.longest, time.monotonic() - began)
        return score


def search(
    trial: Trial,
    start: Setting,
    *,
    budget_s: float,
    cores: int,
    on_trial: Callable[[str, Score], None] = lambda *_: None,
) -> Found:
    """Ask every question of the space that the budget leaves time for.

    Args:
        trial: Serves a setting and measures it.
        start: What the release has; always tried first.
        budget_s: Seconds for everything.
        cores: That the server may use.
        on_trial: Told what is being found out, and each score.

    Raises:
        BenchmarkError: no setting could be measured within the budget.
    """
    clock = _Clock(budget_s)
    tried: dict[Setting, Score] = {}
    for question in (Question("the release as it is", lambda _: [start]), *questions(cores)):
        best = max(tried.values(), key=lambda score: score.rank).setting if tried else start
        for setting in question.answers(best):
            if setting in tried:
                continue
            if tried and clock.left_s - clock.longest < budget_s * FINALS_SHARE:
                break
            score = clock.time(trial, setting)
            tried[setting] = score
            on_trial(question.about, score)
    if not tried:
        raise BenchmarkError("the budget is too small to try anything; raise --budget")
    best_score = max(tried.values(), key=lambda score: score.rank)
    gain = None
    if best_score.setting != start:
        gain = _finals(clock, trial, start, best_score.setting, on_trial)
    return Found(start, best_score, tuple(tried.values()), gain)


def _finals(
    clock: _Clock,
    trial: Trial,
    start: Setting,
    best: Setting,
    on_trial: Callable[[str, Score], None],
) -> Ratio | None:
    """Both in turns: the best of many tries looks better than it is."""
    before: list[float] = []
    after: list[float] = []
    for _ in range(FINALS):
        if clock.left_s < 2 * clock.longest and before:
            break
        for setting, values in ((start, before), (best, after)):
            score = clock.time(trial, setting)
            values.append(score.per_second)
            on_trial("finals", score)
    return paired(after, before) if len(before) > 1 else None
