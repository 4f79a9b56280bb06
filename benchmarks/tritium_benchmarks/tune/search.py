"""Search the setting with the highest throughput whose p99 stays under a bound.

found = search(trial, start, budget_s=300, cores=2)
found.chosen.setting, found.chosen.per_second
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

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

    start: Score
    """Of the release as it is."""
    best: Score
    tried: tuple[Score, ...]
    gain: Ratio | None
    """The best setting's throughput over the start's, measured in turns; None where it is the start
    or where the budget left no time."""
    kept: tuple[bool, bool] = (True, True)
    """Whether the start, and the best setting, kept the bound in every turn of theirs."""

    @property
    def pays(self) -> bool:
        """Whether the best setting is the better one.

        It is when it keeps a bound that the start breaks, or when it answers more by more than the
        noise and does not break a bound that the start keeps.
        """
        if self.gain is None:
            return False
        start_kept, best_kept = self.kept
        if start_kept != best_kept:
            return best_kept
        return self.gain.low > 1

    @property
    def chosen(self) -> Score:
        """What should run: the best setting where it pays, else the release as it is."""
        return self.best if self.pays else self.start


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
    """
    clock = _Clock(budget_s)
    tried: dict[Setting, Score] = {}
    for question in (Question("the release as it is", lambda best: [best]), *questions(cores)):
        best = max(tried.values(), key=lambda score: score.rank).setting if tried else start
        for setting in question.answers(best):
            if setting in tried:
                continue
            if tried and clock.left_s - clock.longest < budget_s * FINALS_SHARE:
                break
            score = clock.time(trial, setting)
            tried[setting] = score
            on_trial(question.about, score)
    best_score = max(tried.values(), key=lambda score: score.rank)
    found = Found(tried[start], best_score, tuple(tried.values()), None)
    if best_score.setting == start:
        return found
    return _finals(clock, trial, found, on_trial)


def _finals(
    clock: _Clock, trial: Trial, found: Found, on_trial: Callable[[str, Score], None]
) -> Found:
    """Both in turns: the best of many tries looks better than it is."""
    before: list[Score] = []
    after: list[Score] = []
    for _ in range(FINALS):
        if clock.left_s < 2 * clock.longest and before:
            break
        for setting, scores in ((found.start.setting, before), (found.best.setting, after)):
            scores.append(clock.time(trial, setting))
            on_trial("finals", scores[-1])
    if len(before) < 2:
        return found
    gain = paired([one.per_second for one in after], [one.per_second for one in before])
    kept = all(one.within for one in before), all(one.within for one in after)
    return replace(found, gain=gain, kept=kept)
