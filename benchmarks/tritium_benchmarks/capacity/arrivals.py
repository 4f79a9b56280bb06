"""When requests come, and what they cost: by chance, in bursts, of several kinds.

arrivals = Arrivals(rate=2000, burstiness=3)
times = arrivals.times(seconds=20, random=np.random.default_rng(0))
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tritium_benchmarks.errors import PlanError

Times = npt.NDArray[np.float64]
EVERYDAY = ((1.0, 1.0),)
"""One kind of request, of the cost that was measured."""


@dataclass(frozen=True)
class Arrivals:
    """A Poisson stream whose rate jumps between a calm one and bursts.

    Source: Markov-modulated Poisson process of two states; Fischer and Meier-Hellstern 1993, "The
    Markov-modulated Poisson process (MMPP) cookbook", Performance Evaluation 18(2).
    """

    rate: float
    """Requests per second on average, of all clients together."""
    burstiness: float = 1.0
    """Rate within a burst over the average; 1 for a plain Poisson stream."""
    burst_share: float = 0.1
    """Of the time."""
    burst_s: float = 0.5
    """Seconds that a burst lasts on average."""
    kinds: tuple[tuple[float, float], ...] = EVERYDAY
    """Share of the requests, and their cost in everyday requests."""

    def __post_init__(self) -> None:
        """Refuse what can never be right.

        Raises:
            PlanError: naming the field.
        """
        if self.rate <= 0:
            raise PlanError(f"the rate must be more than 0 requests per second: {self.rate:g}")
        most = 1 / self.burst_share
        if not 1 <= self.burstiness <= most:
            raise PlanError(
                f"burstiness must be from 1 to {most:g} (bursts are {self.burst_share:.0%} of the "
                f"time): {self.burstiness:g}"
            )
        if abs(sum(share for share, _ in self.kinds) - 1) > 1e-6:
            raise PlanError("the shares of the kinds of requests must be 1 together")

    @property
    def mean_cost(self) -> float:
        """Of a request."""
        return sum(share * cost for share, cost in self.kinds)

    def times(self, seconds: float, random: np.random.Generator) -> Times:
        """Seconds at which requests come, rising, below `seconds`."""
        if self.burstiness == 1:
            return _unit_poisson(self.rate * seconds, random) / self.rate
        ends, rates = self._states(seconds, random)
        lengths = np.diff(ends, prepend=0.0)
        # In a clock that ticks with the rate the stream is a plain one; turn that clock back.
        ticks = np.concatenate([[0.0], np.cumsum(lengths * rates)])
        unit = _unit_poisson(float(ticks[-1]), random)
        times: Times = np.interp(unit, ticks, np.concatenate([[0.0], ends]))
        return times

    def costs(self, count: int, random: np.random.Generator) -> Times:
        """What each of `count` requests costs."""
        if len(self.kinds) == 1:
            return np.full(count, self.kinds[0][1])
        shares, costs = zip(*self.kinds, strict=True)
        drawn: Times = random.choice(np.array(costs), count, p=np.array(shares) / sum(shares))
        return drawn

    def _states(self, seconds: float, random: np.random.Generator) -> tuple[Times, Times]:
        """When each state ends, and the rate in it; calm and bursts in turn."""
        calm_s = self.burst_s * (1 - self.burst_share) / self.burst_share
        pairs = int(2 * seconds / (calm_s + self.burst_s)) + 16
        lengths = np.empty(2 * pairs)
        lengths[0::2] = random.exponential(calm_s, pairs)
        lengths[1::2] = random.exponential(self.burst_s, pairs)
        ends = np.cumsum(lengths)
        last = int(np.searchsorted(ends, seconds))
        ends = np.append(ends[:last], seconds)
        calm = self.rate * (1 - self.burst_share * self.burstiness) / (1 - self.burst_share)
        rates = np.where(np.arange(len(ends)) % 2 == 0, calm, self.rate * self.burstiness)
        return ends, rates


def _unit_poisson(until: float, random: np.random.Generator) -> Times:
    """A Poisson stream of rate 1, below `until`."""
    gaps = random.exponential(1.0, int(until + 6 * until**0.5 + 16))
    times: Times = np.cumsum(gaps)
    within: Times = times[times < until]
    return within
