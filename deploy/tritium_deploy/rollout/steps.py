"""What the plans of several verbs are made of."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from tritium_builders.aliases import live_rollout, point_aliases
from tritium_builders.history import Action, GateRecord, Traffic
from tritium_client import contract
from tritium_deploy.errors import GateError, SwitchError
from tritium_deploy.live import AppRelease
from tritium_deploy.rollout.gates import Consent, compare, judge
from tritium_deploy.rollout.observe import live_traffic
from tritium_deploy.rollout.plan import Step, StepEvent
from tritium_deploy.rollout.stage import place, stage_steps
from tritium_deploy.rollout.switch import Switch, point_fleet
from tritium_deploy.rollout.work import Work


def staged(work: Work, candidate: AppRelease) -> list[Step]:
    """Verify a release, load it beside the live one, and replay its golden samples."""
    site = work.site
    work.placements = place(candidate, work.states, site.repository)
    return stage_steps(
        candidate, work.placements, site.fleet, site.repository, site.settings, site.on_step
    )


def gated(work: Work, candidate: AppRelease, consent: Consent) -> Step:
    """Measure a staged release beside the live one, and refuse it where it is not good enough."""
    site, gates = work.site, work.site.settings.gates
    server = next(iter(work.states))
    number, live = candidate.release.number, work.live.release.number
    # Staging comes first, and ends the command where one is answered otherwise.
    text = f"{len(candidate.golden)} golden samples answered within tolerance"
    golden = GateRecord(gate="golden", passed=True, found=text)

    def measure() -> str:
        def progress(done: int, total: int) -> None:
            site.on_step(StepEvent("progress", "pairs of requests", done=done, total=total))

        found = compare(server, work.live, candidate, site.repository, gates, progress)
        work.gates = [golden, *judge(found, work.live, candidate, gates, consent)]
        failed = tuple(f"{one.gate}: {one.found}" for one in work.gates if not one.passed)
        if failed:
            raise GateError(candidate.name, number, failed)
        return "; ".join(one.found for one in work.gates)

    return Step(
        f"measure release {number} beside release {live} on {server.endpoint}: errors, accuracy, "
        "latency",
        measure,
    )


def switched(work: Work, release: AppRelease, action: Action, reason: str = "") -> list[Step]:
    """Move what callers name to a release: everywhere, or nowhere."""
    site = work.site
    switch = Switch(site.repository, site.fleet, site.settings, work.live, release, action)
    number, former = release.release.number, work.live.release.number
    before: list[Traffic] = []

    def begin() -> str:
        before.append(live_traffic(work.states, work.live))
        switch.begin()
        return ""

    def write() -> str:
        try:
            switch.write_repository()
        except OSError as error:
            with suppress(OSError):  # then the note stays, and the next command undoes the rest
                switch.undo()
            raise SwitchError(
                f"{work.app} stays at release {former}: the repository cannot be written "
                f"({error.strerror})"
            ) from error
        return ""

    def end() -> str:
        absent = switch.tell_again()
        # Before the note is gone: without its history, nobody could go back.
        work.note(action, number, former=former, before=before[-1], reason=reason)
        switch.end()
        return _absent(absent)

    count = len(release.release.entry_points)
    return [
        Step(f"note that the entry points move from release {former} to {number}", begin),
        Step(
            f"point {count} entry points to release {number} on each server",
            lambda: _absent(switch.point_servers()),
        ),
        Step(f"write {count} entry points of the repository: release {number} is live", write),
        Step("tell servers that came back, and end the note", end),
    ]


def synced(work: Work) -> Step:
    """For a release that is live already: servers that have another one are told."""
    site = work.site

    def sync() -> str:
        rollout = live_rollout(site.repository, work.app)
        absent, refused = point_fleet(
            site.fleet, site.repository, work.live, rollout, site.settings.load_timeout_s
        )
        for endpoint, error in refused.items():
            raise SwitchError(f"server {endpoint}: {error}")
        return _absent(absent)

    number = work.live.release.number
    return Step(f"release {number} is live; tell servers that have another", sync)


def shared(
    work: Work,
    before: contract.Rollout | None,
    after: contract.Rollout | None,
    what: tuple[Action, int, float],
    reason: str = "",
) -> list[Step]:
    """Change which share of requests goes to a candidate: on every server, then in the repository.

    Args:
        work: The command.
        before: What the repository says.
        after: What it shall say; None for no candidate.
        what: `canary` or `shadow`, the candidate, and its share in percent; for the history.
        reason: Why, where nobody asked for it.
    """
    site, live = work.site, work.live.release
    action, number, percent = what
    timeout_s = site.settings.load_timeout_s

    def tell() -> str:
        absent, refused = point_fleet(site.fleet, site.repository, work.live, after, timeout_s)
        if refused:
            point_fleet(site.fleet, site.repository, work.live, before, timeout_s)
            server, error = next(iter(refused.items()))
            raise SwitchError(f"server {server}: {error}; shares are what they were")
        return _absent(absent)

    def write() -> str:
        point_aliases(site.repository, live, after)
        if before != after:
            work.note(action, number, percent=percent, reason=reason)
        return ""

    text = f"{action} share of release {number}: {percent:g}%"
    return [
        Step(f"{text}, in the entry points of each server", tell),
        Step(f"{text}, in those of the repository", write),
    ]


def _absent(endpoints: Sequence[str]) -> str:
    return f"without {', '.join(endpoints)}, which will follow" if endpoints else ""
