"""What one rollout command works with: the app's lock, its live release, every server's state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tritium_builders.history import (
    Action,
    GateRecord,
    HistoryEntry,
    Traffic,
    append_history,
    now,
    read_history,
    whoami,
)
from tritium_builders.names import STATE_FOLDER
from tritium_builders.pending import read_pending, remove_pending
from tritium_builders.release import live_release
from tritium_client import contract
from tritium_deploy.errors import RolloutError, UnreachableError
from tritium_deploy.live import AppRelease, read_app_release
from tritium_deploy.rollout.fleet import Fleet, FleetServer, ServerState, succeeded
from tritium_deploy.rollout.lock import AppLock, Owner
from tritium_deploy.rollout.plan import OnStep, Plan, StepEvent, carry_out
from tritium_deploy.rollout.settings import RolloutSettings
from tritium_deploy.rollout.stage import Placement
from tritium_deploy.rollout.switch import end_pending


@dataclass(frozen=True)
class Site:
    """Where a rollout happens."""

    repository: Path
    fleet: Fleet
    settings: RolloutSettings
    on_step: OnStep
    skip_unreachable: bool
    """Go on without servers that do not answer."""
    wait_s: float
    """For another operator's lock."""

    def tell(self, text: str) -> None:
        """Say something that is no step."""
        self.on_step(StepEvent("note", text))


@dataclass
class Work:
    """One command at work."""

    site: Site
    live: AppRelease
    states: Mapping[FleetServer, ServerState]
    """Of the servers that answer."""
    lock: AppLock | None = None
    """None for a dry run."""
    placements: Mapping[FleetServer, Placement] = field(default_factory=dict)
    """Of the release that is staged."""
    gates: list[GateRecord] = field(default_factory=list)
    """What they found."""

    @property
    def app(self) -> str:
        """The app's name."""
        return self.live.name

    def carry_out(self, plan: Plan) -> Plan:
        """Do what a plan says, unless this is a dry run."""
        if self.lock is not None:
            carry_out(plan, self.site.on_step, self.lock.require)
        return plan

    def note(
        self,
        action: Action,
        number: int,
        *,
        former: int | None = None,
        percent: float | None = None,
        before: Traffic | None = None,
        reason: str = "",
    ) -> None:
        """Write what was done into the history, with what the gates found."""
        note(
            self.site.repository, self.app, action, number,
            former=former, percent=percent, before=before, reason=reason, gates=self.gates,
        )  # fmt: skip


@contextmanager
def begin(
    site: Site, app: str, doing: str, *, dry_run: bool, tolerant: bool = False
) -> Iterator[Work]:
    """Take the lock, end what was left unfinished, and look at every server.

    Args:
        site: Where.
        app: Whose release.
        doing: What for; other operators see it.
        dry_run: Only look.
        tolerant: Go on without servers that do not answer.

    Raises:
        RolloutError: there is no such app, a server does not answer, or somebody else is at work.
    """
    require_app(site.repository, app)
    if dry_run:
        pending = read_pending(site.repository, app)
        if pending is not None:
            site.tell(f"the {pending.action} of release {pending.release} is ended first")
        yield _look(site, app, tolerant=tolerant)
        return

    def waiting(owner: Owner) -> None:
        site.tell(f"waiting for {owner.who}, who is at work: {owner.doing}")

    with AppLock(site.repository, app, doing, site.wait_s, waiting) as lock:
        _end_pending(site, app)
        work = _look(site, app, tolerant=tolerant)
        work.lock = lock
        yield work


def require_app(repository: Path, app: str) -> int:
    """The number of an app's live release.

    Raises:
        RolloutError: there is no such app.
    """
    if not contract.is_app_name(app):
        raise RolloutError(f"{app!r} cannot be an app's name")
    number = live_release(repository, app)
    if number is None:
        raise RolloutError(f"{repository} has no app {app} with a live release")
    (repository / STATE_FOLDER).mkdir(exist_ok=True)
    return number


def note(
    repository: Path,
    app: str,
    action: Action,
    number: int,
    *,
    former: int | None = None,
    percent: float | None = None,
    before: Traffic | None = None,
    reason: str = "",
    gates: Sequence[GateRecord] = (),
) -> None:
    """Write what was done into an app's history."""
    entry = HistoryEntry(
        when=now(),
        who=whoami(),
        action=action,
        release=number,
        live=live_release(repository, app),
        former=former,
        percent=percent,
        gates=list(gates),
        before=before,
        reason=reason,
    )
    append_history(repository, app, entry)


def last_switch(repository: Path, app: str) -> HistoryEntry | None:
    """How the live release became live; None for an app's first one."""
    live = live_release(repository, app)
    switches = [
        entry
        for entry in read_history(repository, app)
        if entry.action in ("promote", "rollback") and entry.release == live
    ]
    return switches[-1] if switches else None


def rollback_target(repository: Path, app: str) -> int | None:
    """The release that a rollback makes live; None where no other one was live before.

    After a rollback it is the live one: the command may be given twice.
    """
    entry = last_switch(repository, app)
    if entry is None:
        return None
    return entry.former if entry.action == "promote" else entry.release


def _look(site: Site, app: str, *, tolerant: bool) -> Work:
    number = require_app(site.repository, app)
    live = read_app_release(site.repository, app, number, whole=False)
    if not (tolerant or site.skip_unreachable):
        return Work(site, live, site.fleet.states(app))
    found = site.fleet.each(lambda server: server.state(app))
    absent = [server for server, one in found.items() if isinstance(one, UnreachableError)]
    for server in absent:
        site.tell(f"going on without a server: {found[server]}")
    states = succeeded({server: one for server, one in found.items() if server not in absent})
    if not states:
        endpoints = ", ".join(server.endpoint for server in absent)
        raise UnreachableError(endpoints, "none of them answers")
    return Work(site, live, states)


def _end_pending(site: Site, app: str) -> None:
    """Complete or undo what an interrupted command left, and say so in the history."""
    pending = read_pending(site.repository, app)
    if pending is None:
        return
    completed = end_pending(site.repository, app, pending, site.fleet, site.settings)
    what = f"the {pending.action} of release {pending.release} that {pending.who} began"
    if completed:
        site.tell(f"completed {what} at {pending.when}")
        note(
            site.repository, app, pending.action, pending.release,
            former=pending.former, reason="completed after an interruption",
        )  # fmt: skip
        remove_pending(site.repository, app)
    else:
        site.tell(f"undid {what} at {pending.when}: release {pending.former} is live")
        note(
            site.repository, app, "undo", pending.release,
            former=pending.former, reason=f"the {pending.action} was interrupted",
        )  # fmt: skip
