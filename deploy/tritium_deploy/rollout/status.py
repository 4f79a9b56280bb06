"""Where an app's releases stand: what the repository says, and what each server has."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tritium_builders.aliases import live_rollout
from tritium_builders.errors import PublishError
from tritium_builders.history import HistoryEntry, read_history
from tritium_builders.pending import PendingSwitch, read_pending
from tritium_builders.release import list_releases, live_release, load_release, release_folder
from tritium_client import contract
from tritium_deploy.rollout.fleet import Fleet, ServerState
from tritium_deploy.rollout.lock import Owner, read_owner

Stage = Literal["candidate", "canary", "live", "retired"]
HISTORY = 10
"""Entries of the history that a status shows."""


@dataclass(frozen=True)
class ReleaseState:
    """One release in the repository."""

    number: int
    stage: Stage
    target: str
    precision: str
    created: str
    problem: str = ""
    """Why it cannot be read; empty when it can."""


@dataclass(frozen=True)
class ServerView:
    """What one server has of the app."""

    endpoint: str
    release: int | None = None
    """That callers get; None where it does not answer."""
    rollout: contract.Rollout | None = None
    loaded: tuple[int, ...] = ()
    """Releases that are loaded."""
    problem: str = ""
    """Why it does not answer, or how it differs from the repository; empty when all is well."""


@dataclass(frozen=True)
class AppState:
    """All of it."""

    app: str
    live: int | None
    rollout: contract.Rollout | None
    """A candidate beside the live release."""
    releases: tuple[ReleaseState, ...]
    servers: tuple[ServerView, ...]
    pending: PendingSwitch | None
    """A switch that has begun and not ended: at work now, or interrupted."""
    owner: Owner | None
    """Who is at work on it."""
    history: tuple[HistoryEntry, ...]
    """The newest entries, oldest first."""

    @property
    def consistent(self) -> bool:
        """Whether every server serves what the repository says, and nothing is left unfinished."""
        return self.pending is None and not any(server.problem for server in self.servers)

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "app": self.app,
            "live": self.live,
            "rollout": None if self.rollout is None else asdict(self.rollout),
            "consistent": self.consistent,
            "releases": [asdict(one) for one in self.releases],
            "servers": [asdict(one) for one in self.servers],
            "pending": None if self.pending is None else self.pending.model_dump(),
            "lock": None if self.owner is None else self.owner.model_dump(exclude={"token"}),
            "history": [entry.model_dump(exclude_defaults=True) for entry in self.history],
        }


def read_state(repository: Path, app: str, fleet: Fleet) -> AppState:
    """Look at an app everywhere; a server that does not answer is part of the state."""
    live, rollout = live_release(repository, app), live_rollout(repository, app)
    history = read_history(repository, app)
    states = fleet.each(lambda server: server.state(app))
    return AppState(
        app=app,
        live=live,
        rollout=rollout,
        releases=tuple(
            _release(repository, app, number, live, rollout, history)
            for number in list_releases(repository, app)
        ),
        servers=tuple(
            _server(server.endpoint, state, live, rollout) for server, state in states.items()
        ),
        pending=read_pending(repository, app),
        owner=read_owner(repository, app),
        history=tuple(history[-HISTORY:]),
    )


def _release(
    repository: Path,
    app: str,
    number: int,
    live: int | None,
    rollout: contract.Rollout | None,
    history: list[HistoryEntry],
) -> ReleaseState:
    stage: Stage = "candidate"
    last = [entry.action for entry in history if entry.release == number]
    if number == live:
        stage = "live"
    elif rollout is not None and rollout.candidate == number and rollout.canary_percent > 0:
        stage = "canary"
    elif last and last[-1] in ("retire", "delete"):
        stage = "retired"
    try:
        release = load_release(release_folder(repository, app, number))
    except PublishError as error:
        return ReleaseState(number, stage, "?", "?", "?", problem=str(error))
    return ReleaseState(number, stage, release.target, release.precision, release.created)


def _server(
    endpoint: str,
    state: ServerState | Exception,
    live: int | None,
    rollout: contract.Rollout | None,
) -> ServerView:
    if isinstance(state, Exception):
        return ServerView(endpoint, problem=str(state))
    problem = ""
    if state.release != live:
        problem = f"serves release {state.release}, and the repository says {live}"
    elif state.rollout != rollout:
        problem = "sends other shares to a candidate than the repository says"
    loaded = tuple(sorted(state.graphs))
    return ServerView(endpoint, state.release, state.rollout, loaded, problem)
