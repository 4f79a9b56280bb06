"""What callers get, from Triton's statistics: after a promote beside before, canary beside live."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tritium_builders.history import Traffic
from tritium_client import contract
from tritium_client.contract import Modality, Verb
from tritium_deploy.errors import ControlError
from tritium_deploy.live import AppRelease
from tritium_deploy.rollout.fleet import Fleet, FleetServer
from tritium_deploy.rollout.plan import OnStep, StepEvent
from tritium_deploy.rollout.settings import WatchSettings

POLL_S = 1.0
NOTHING = Traffic(requests=0, failures=0, mean_ms=0.0)
ENTRY_POINTS: tuple[tuple[Modality, ...], ...] = (("text", "image"), ("text",), ("image",))

Counts = Mapping[tuple[str, str], Traffic]
"""(endpoint, model) -> what it has answered since it was loaded."""


@dataclass(frozen=True)
class Verdict:
    """What watching came to."""

    broken: bool
    """Whether a bound broke."""
    text: str
    """The figures, in one line."""
    found: Traffic
    """What callers got of the release that was watched."""


def live_traffic(servers: Iterable[FleetServer], live: AppRelease) -> Traffic:
    """What callers got of a release since its entry points were loaded, of all servers together."""
    version = str(live.release.number)
    counts = [
        _traffic(server, live.release.alias(given), version)
        for server in servers
        for given in live.release.entry_points
    ]
    return total(one for one in counts if one is not None)


def watch_live(
    fleet: Fleet,
    app: str,
    verb: Verb,
    number: int,
    before: Traffic | None,
    settings: WatchSettings,
    seconds: float,
    on_step: OnStep,
) -> Verdict:
    """Watch the live release, until a bound breaks or the time is over."""
    models = {contract.entry_point(app, verb, one): str(number) for one in ENTRY_POINTS}
    counted = Counter(fleet, models)
    deadline = time.monotonic() + seconds
    while True:
        found = counted.since_the_start()
        reason = broken_bound(found, before or NOTHING, settings)
        text = f"release {number}: {_words(found)}; before: {_words(before or NOTHING)}"
        if reason is not None:
            return Verdict(True, f"{reason} ({text})", found)
        left = deadline - time.monotonic()
        if left <= 0:
            return Verdict(False, text, found)
        on_step(_progress(seconds, left))
        time.sleep(min(POLL_S, left))


def watch_canary(
    fleet: Fleet,
    app: str,
    verb: Verb,
    rollout: contract.Rollout,
    settings: WatchSettings,
    seconds: float,
    on_step: OnStep,
) -> Verdict:
    """Watch a candidate beside the live release, over the same time."""
    number = rollout.candidate
    theirs = {contract.release_entry_point(app, verb, one, number): "1" for one in ENTRY_POINTS}
    ours = {contract.entry_point(app, verb, one): "" for one in ENTRY_POINTS}
    candidate, live = Counter(fleet, theirs), Counter(fleet, ours)
    deadline = time.monotonic() + seconds
    while True:
        found, beside = candidate.since_the_start(), live.since_the_start()
        reason = broken_bound(found, beside, settings)
        text = f"canary release {number}: {_words(found)}; live: {_words(beside)}"
        if reason is not None:
            return Verdict(True, f"{reason} ({text})", found)
        left = deadline - time.monotonic()
        if left <= 0:
            return Verdict(False, text, found)
        on_step(_progress(seconds, left))
        time.sleep(min(POLL_S, left))


def broken_bound(found: Traffic, before: Traffic, settings: WatchSettings) -> str | None:
    """Which bound a release breaks, in words; None while it breaks none.

    Args:
        found: What callers get of it.
        before: What they got of what it is compared with.
        settings: The bounds.
    """
    share, usual = _failed_percent(found), _failed_percent(before)
    if found.failures >= settings.failures and share > usual + settings.error_points:
        return (
            f"{share:.1f}% of requests failed, before {usual:.1f}%, and it may rise by "
            f"{settings.error_points:g} points"
        )
    enough = min(found.requests, before.requests) >= settings.requests
    if enough and found.mean_ms > settings.latency_ratio * before.mean_ms:
        return (
            f"requests take {found.mean_ms:.1f} ms, before {before.mean_ms:.1f} ms, and may take "
            f"{settings.latency_ratio:g} times that"
        )
    return None


def total(counts: Iterable[Traffic]) -> Traffic:
    """Add what several servers, or several entry points, have answered."""
    requests, failures, took_ms = 0, 0, 0.0
    for one in counts:
        requests += one.requests
        failures += one.failures
        took_ms += one.requests * one.mean_ms
    return Traffic(
        requests=requests, failures=failures, mean_ms=took_ms / requests if requests else 0.0
    )


def grown(before: Traffic, after: Traffic) -> Traffic:
    """What came between two readings; where a model was loaded anew, everything since."""
    if after.requests < before.requests or after.failures < before.failures:
        return after
    requests = after.requests - before.requests
    took_ms = after.requests * after.mean_ms - before.requests * before.mean_ms
    return Traffic(
        requests=requests,
        failures=after.failures - before.failures,
        mean_ms=max(0.0, took_ms / requests) if requests else 0.0,
    )


class Counter:
    """Counts what models answer on every server from now on.

    A model that is loaded anew, as entry points are at every change of a share, begins at zero;
    what it had counted until then is kept.

    Args:
        fleet: The servers.
        models: Triton model -> its version; an empty one for all.
    """

    def __init__(self, fleet: Fleet, models: Mapping[str, str]) -> None:
        self._fleet = fleet
        self._models = models
        self._last = self._read()
        self._sum: dict[tuple[str, str], Traffic] = {}

    def since_the_start(self) -> Traffic:
        """All of it together."""
        counts = self._read()
        for key, after in counts.items():
            more = grown(self._last.get(key, NOTHING), after)
            self._sum[key] = total([self._sum.get(key, NOTHING), more])
        self._last = {**self._last, **counts}
        return total(self._sum.values())

    def _read(self) -> dict[tuple[str, str], Traffic]:
        found = {}
        results = self._fleet.each(
            lambda server: {
                model: _traffic(server, model, version) for model, version in self._models.items()
            }
        )
        for server, counts in results.items():
            if isinstance(counts, Exception):
                continue
            for model, one in counts.items():
                if one is not None:
                    found[server.endpoint, model] = one
        return found


def _traffic(server: FleetServer, model: str, version: str) -> Traffic | None:
    """None where the server does not answer, or has no such model."""
    try:
        return server.control.traffic(model, version)
    except ControlError:
        return None


def _failed_percent(traffic: Traffic) -> float:
    asked = traffic.requests + traffic.failures
    return 100 * traffic.failures / asked if asked else 0.0


def _words(traffic: Traffic) -> str:
    if not traffic.requests + traffic.failures:
        return "no requests"
    return (
        f"{traffic.requests} answered in {traffic.mean_ms:.1f} ms on average, "
        f"{traffic.failures} failed"
    )


def _progress(seconds: float, left: float) -> StepEvent:
    return StepEvent("progress", "seconds watched", done=int(seconds - left), total=int(seconds))
