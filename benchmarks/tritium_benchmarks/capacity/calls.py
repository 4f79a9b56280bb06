"""Callers of a simulation: they balance, send again, and hedge, with the SDK's own policies.

`Retries`, `Hedges` and `Rotation` here are the classes that a real client runs, given simulated
time; how a call uses them follows client/tritium_client/_async/sender.py, race.py and pool.py.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import simpy

from tritium_benchmarks.capacity.balancing import Policy
from tritium_benchmarks.capacity.fleet import End, Server, after
from tritium_benchmarks.capacity.replica import Draws
from tritium_client._exceptions import ServerUnavailable
from tritium_client._hedging import HedgePolicy, Hedges
from tritium_client._retries import Retries, RetryPolicy

UNAVAILABLE = ServerUnavailable("the queue is full, or the server is gone")
ENTRY_POINT = "simulated"


@dataclass
class Tally:
    """How calls ended; each of them is counted once, in one of the three."""

    came: int = 0
    latencies_s: list[float] = field(default_factory=list)
    """Of those that were answered within their time."""
    refused: int = 0
    timed_out: int = 0
    sent: int = 0
    """Attempts, retries and hedges included."""
    retries: int = 0
    hedges: int = 0


class Caller:
    """An SDK client, or a proxy that many share.

    Args:
        env: The clock.
        servers: Those that it knows.
        policy: How it chooses among them.
        timeout_s: Of each call.
        outside: Draws seconds that a request is on the way.
        outside_s: Their mean.
        retries: As the SDK's clients have it.
        chance: For choices and pauses.
    """

    def __init__(
        self,
        env: simpy.Environment,
        servers: Sequence[Server],
        policy: Policy,
        *,
        timeout_s: float,
        outside: Draws,
        outside_s: float,
        retries: RetryPolicy,
        chance: random.Random,
    ) -> None:
        self.env = env
        self.servers = servers
        self.balance = policy.make(len(servers), lambda: env.now, chance)
        self.retries = Retries(retries, chance)
        self.hedges = Hedges(HedgePolicy() if policy.hedging else None)
        self.timeout_s = timeout_s
        self.successors: Sequence[Caller] = ()
        """Of a proxy that is gone: those whom its clients ask in its place."""
        self.chance = chance
        self.outside = outside
        self.outside_s = outside_s

    def call(self, cost: float, tally: Tally) -> None:
        """Begin a call.

        Args:
            cost: In everyday requests.
            tally: Where its end is counted.
        """
        self.retries.earn()
        tally.came += 1
        Call(self, cost, tally).attempt()


class Call:
    """One call: attempts one after the other, a hedge beside one, one end."""

    __slots__ = ("_attempts", "_began", "_caller", "_cost", "_done", "_running", "_tally")

    def __init__(self, caller: Caller, cost: float, tally: Tally) -> None:
        self._caller = caller
        self._cost = cost
        self._tally = tally
        self._began = caller.env.now
        self._attempts = 0
        self._done = False
        self._running: list[Sent] = []

    def attempt(self, _event: object = None) -> None:
        """Send it, the first time or again; a slow one may get a hedge."""
        self._attempts += 1
        if self._caller.successors:
            self._caller = self._caller.chance.choice(self._caller.successors)
        delay_s = self._caller.hedges.delay_s(ENTRY_POINT)
        if self._send() and delay_s is not None:
            number = self._attempts
            # The answer is on its way for `outside_s` when the server is done with it.
            wait = max(delay_s - self._caller.outside_s, 0.0)
            after(self._caller.env, wait, lambda _: self._hedge(number))

    def _hedge(self, number: int) -> None:
        if self._done or number != self._attempts or len(self._running) != 1:
            return
        if self._caller.retries.spend():
            self._tally.hedges += 1
            self._send()

    def _send(self) -> bool:
        """Send one request; False when that failed at once, and the failure was dealt with."""
        caller, balance = self._caller, self._caller.balance
        self._tally.sent += 1
        index = balance.choose()
        if any(one.index == index for one in self._running):
            index = balance.choose()  # a hedge goes elsewhere
        for _ in caller.servers:
            if not caller.servers[index].drains:
                break
            # It says that it lacks the app, and the next one is asked: that costs no attempt.
            balance.failed(index)
            index = balance.choose()
        server, now = caller.servers[index], caller.env.now
        expires_at = self._began + caller.timeout_s - caller.outside_s
        sent = Sent(self, index, self._cost, now, expires_at)
        balance.under_way[index] += 1
        self._running.append(sent)  # before it is taken: one that comes too late ends there
        if server.take(sent):
            return True
        balance.under_way[index] -= 1
        self._running.remove(sent)
        balance.failed(index)
        self._failed(UNAVAILABLE)
        return False

    def ended(self, sent: Sent, how: End) -> None:
        """Note what became of one of its requests."""
        caller = self._caller
        balance = caller.balance
        balance.under_way[sent.index] -= 1
        self._running.remove(sent)
        if how == "gone":
            balance.failed(sent.index)
            self._failed(UNAVAILABLE)
            return
        outside_s = caller.outside()
        elapsed = caller.env.now - self._began + outside_s
        if how == "expired" or elapsed > caller.timeout_s:
            balance.overtaken(sent.index)
            self._finish()
            self._tally.timed_out += 1
            return
        balance.succeeded(sent.index)
        caller.hedges.note(ENTRY_POINT, caller.env.now - sent.began + outside_s)
        self._finish(answered=sent)
        self._tally.latencies_s.append(elapsed)

    def _failed(self, error: ServerUnavailable) -> None:
        """Try again, or end; another request that still runs may mend it."""
        if self._running:
            return
        caller = self._caller
        left = self._began + caller.timeout_s - caller.env.now
        pause = caller.retries.pause_s(error, self._attempts, left)
        if pause is None:
            self._finish()
            self._tally.refused += 1
            return
        self._tally.retries += 1
        after(caller.env, pause, self.attempt)

    def _finish(self, answered: Sent | None = None) -> None:
        """Be over; what still runs is cancelled, and not computed unless that has begun."""
        assert not self._done, "a call ends once"  # noqa: S101 - of the simulation itself
        self._done = True
        balance = self._caller.balance
        for other in self._running:
            other.cancelled = True
            balance.under_way[other.index] -= 1
            if answered is not None and other.began < answered.began:
                balance.overtaken(other.index)  # by its hedge: that says something of its server
            else:
                balance.gave_up(other.index)
        self._running = []


class Sent:
    """One request at one server."""

    __slots__ = ("_call", "began", "cancelled", "cost", "expires_at", "index")

    def __init__(
        self, call: Call, index: int, cost: float, began: float, expires_at: float
    ) -> None:
        self._call = call
        self.index = index
        self.cost = cost
        self.expires_at = expires_at
        self.began = began
        self.cancelled = False

    def ended(self, how: End) -> None:
        """Told by the server."""
        if not self.cancelled:
            self._call.ended(self, how)
