"""Which server takes a request: the ways to choose that are compared.

Whoever balances (an SDK client, or a proxy that many clients share) knows the servers that it was
given, what it has sent to each itself, and which just failed; nothing of what others send.

Sources: Mitzenmacher 2001, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS
12(10); Envoy's documentation of its least-request policy (choice_count 2) and of zone aware
routing; Beyer et al. 2016, Site Reliability Engineering, chapter 20 (deterministic subsets).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tritium_benchmarks.errors import PlanError
from tritium_client._health import FIRST_EJECTION_S, LONGEST_EJECTION_S, TIMEOUTS_IN_A_ROW, Rotation

HEDGING = "+hedging"
PROXIES_IN_A_ZONE = 2
LOOKS = 4
"""Times that chance is asked for a server that is not left out."""


@dataclass(frozen=True)
class Policy:
    """How requests find a server, and whether slow ones get a second one."""

    name: str
    title: str
    make: Callable[[int, Callable[[], float], random.Random], Balance]
    """From how many servers there are, the clock, and chance."""
    by_proxy: bool = False
    """Proxies balance, each over its own zone, and not clients."""
    hedging: bool = False


class Balance:
    """Chooses by chance; the others say how in `_pick`. Leaves out servers as the SDK does.

    Args:
        count: Servers, at least 1.
        clock: Seconds.
        chance: For ties and choices.
    """

    def __init__(self, count: int, clock: Callable[[], float], chance: random.Random) -> None:
        self._count = count
        self._clock = clock
        self._chance = chance
        self._failures = [0] * count
        self._timeouts = [0] * count
        self._back_at = [0.0] * count
        self._out = 0
        """Servers that failed since they last answered."""
        self.under_way = [0] * count
        """Requests that were sent to each and have not ended."""

    def choose(self) -> int:
        """The server of the next request."""
        if not self._out:
            return self._pick()
        now = self._clock()
        for _ in range(LOOKS * 4):
            chosen = self._pick()
            if self._back_at[chosen] <= now:
                return self._try(chosen, now)
        here = [index for index in range(self._count) if self._back_at[index] <= now]
        if here:
            return self._try(self._chance.choice(here), now)
        return min(range(self._count), key=lambda index: self._back_at[index])

    def _try(self, chosen: int, now: float) -> int:
        """One request tries a server that was left out; the others wait for what comes of it."""
        if self._failures[chosen]:
            self._back_at[chosen] = now + FIRST_EJECTION_S
        return chosen

    def _pick(self) -> int:
        return int(self._chance.random() * self._count)

    def succeeded(self, index: int) -> None:
        """Note an answer."""
        self._timeouts[index] = 0
        if self._failures[index]:
            self._failures[index] = 0
            self._back_at[index] = 0.0
            self._out -= 1

    def failed(self, index: int) -> None:
        """Note that a server was not there, or was full."""
        self._out += self._failures[index] == 0
        self._failures[index] += 1
        pause = FIRST_EJECTION_S * 2 ** min(self._failures[index] - 1, 16)
        self._back_at[index] = self._clock() + min(LONGEST_EJECTION_S, pause)

    def overtaken(self, index: int) -> None:
        """Note that a hedge was answered sooner."""
        self._timeouts[index] += 1
        if self._timeouts[index] >= TIMEOUTS_IN_A_ROW or self._failures[index]:
            self.failed(index)

    def gave_up(self, index: int) -> None:
        """Note that a request ended without saying anything of its server."""


class RoundRobin(Balance):
    """The SDK's own rotation, its code and no copy of it."""

    def __init__(self, count: int, clock: Callable[[], float], chance: random.Random) -> None:
        super().__init__(count, clock, chance)
        self._rotation = Rotation(count, clock, first=chance.randrange(count))

    def choose(self) -> int:
        """The server whose turn it is."""
        return self._rotation.choose()

    def succeeded(self, index: int) -> None:
        """Note an answer."""
        self._rotation.succeeded(index)

    def failed(self, index: int) -> None:
        """Note that a server was not there, or was full."""
        self._rotation.failed(index)

    def overtaken(self, index: int) -> None:
        """Note that a hedge was answered sooner."""
        self._rotation.timed_out(index)

    def gave_up(self, index: int) -> None:
        """Note that a request ended without saying anything of its server."""
        self._rotation.gave_up(index)


class LeastOutstanding(Balance):
    """Fewest of one's own requests under way; among equals, in turn."""

    def __init__(self, count: int, clock: Callable[[], float], chance: random.Random) -> None:
        super().__init__(count, clock, chance)
        self._next = 0

    def _pick(self) -> int:
        now = self._clock() if self._out else 0.0
        best, least = self._next, -1
        for step in range(self._count):
            index = (self._next + step) % self._count
            if self._out and self._back_at[index] > now:
                continue
            count = self.under_way[index]
            if least < 0 or count < least:
                best, least = index, count
                if count == 0:
                    break
        self._next = (best + 1) % self._count
        return best


class TwoChoices(Balance):
    """Two by chance, and of them the one with fewer of one's own requests under way."""

    def _pick(self) -> int:
        one, other = super()._pick(), super()._pick()
        return one if self.under_way[one] <= self.under_way[other] else other


POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy("random", "random", Balance),
        Policy("round-robin", "round robin (the SDK)", RoundRobin),
        Policy("least-outstanding", "least outstanding, each client its own", LeastOutstanding),
        Policy("two-choices", "two choices, each client its own", TwoChoices),
        Policy("envoy", "Envoy: least request, by zone", TwoChoices, by_proxy=True),
    )
}
DEFAULT_POLICY = "round-robin"


def policy_of(name: str) -> Policy:
    """A policy by its name; with `+hedging` behind it, slow requests get a second one.

    Raises:
        PlanError: naming those that there are.
    """
    plain = name.removesuffix(HEDGING)
    if plain not in POLICIES:
        raise PlanError(
            f"no policy is called {name!r}; there are: {', '.join(POLICIES)}, each also with "
            f"{HEDGING} behind it"
        )
    policy = POLICIES[plain]
    if plain == name:
        return policy
    title = f"{policy.title}, hedging"
    return Policy(name, title, policy.make, policy.by_proxy, hedging=True)


def subsets(servers: int, clients: int, size: int, seed: int) -> list[Sequence[int]]:
    """Which servers each client knows: every server is known by as many clients as any other.

    Random subsets would load some servers half as much again as others.

    Args:
        servers: How many there are.
        clients: Likewise.
        size: Servers that one client knows.
        seed: Of the shuffles.
    """
    if size >= servers:
        shuffled = random.Random(seed)  # noqa: S311 - a simulation
        return [shuffled.sample(range(servers), servers) for _ in range(clients)]
    known: list[Sequence[int]] = []
    stream: list[int] = []
    turn = 0
    while len(known) < clients:
        while len(stream) < size:
            order = list(range(servers))
            random.Random(f"{seed} {turn}").shuffle(order)  # noqa: S311 - a simulation
            turn += 1
            # A server must not come twice into one subset: those at the seam go to its end.
            held = set(stream)
            stream += [one for one in order if one not in held]
            stream += [one for one in order if one in held]
        known.append(stream[:size])
        stream = stream[size:]
    return known
