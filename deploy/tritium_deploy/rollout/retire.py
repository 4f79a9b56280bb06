"""Take a release out of the servers, and perhaps out of the repository."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from tritium_builders.durable import flush_one
from tritium_builders.errors import PublishError
from tritium_builders.history import read_history
from tritium_builders.names import STATE_FOLDER
from tritium_builders.release import (
    Release,
    list_releases,
    read_release,
    release_folder,
)
from tritium_client import contract
from tritium_deploy.errors import RolloutError
from tritium_deploy.loading import unload
from tritium_deploy.rollout.fleet import FleetServer, ServerState
from tritium_deploy.rollout.plan import OnStep, Step, StepEvent
from tritium_deploy.rollout.work import Work

QUIET_S = 3 * contract.ROLLOUT_REFRESH_S
"""How long callers may go on asking a release after its share went to 0, or another one was
promoted: they learn of it at their next refresh."""
MOVES_CALLERS = ("canary", "shadow", "promote", "rollback", "undo")
UNLOAD_WAIT_S = 30.0
"""For requests that a release still has."""


def retired(work: Work, number: int, *, delete: bool) -> list[Step]:
    """Take a release out of the servers; with `delete` remove its files, too."""
    repository, app = work.site.repository, work.app
    steps = _unload_steps(repository, app, number, work.states, work.site.on_step)
    if delete:
        steps += _delete_steps(repository, app, number)
    last = steps.pop()

    def finish() -> str:
        found = last.act()
        work.note("delete" if delete else "retire", number)
        return found

    return [*steps, Step(last.text, finish)]


def _unload_steps(
    repository: Path,
    app: str,
    number: int,
    states: Mapping[FleetServer, ServerState],
    on_step: OnStep,
) -> list[Step]:
    """Unload a release's ensembles, and components that no other loaded release uses."""
    folder = release_folder(repository, app, number)
    if not folder.is_dir():
        raise RolloutError(f"{app} has no release {number}")
    models = {server: _own_models(repository, app, number, states[server]) for server in states}
    count = sum(map(len, models.values()))

    def wait() -> str:
        began = time.monotonic()
        total = _still_asked_s(repository, app, number) if count else 0.0
        while (done := time.monotonic() - began) < total:
            on_step(StepEvent("progress", "seconds waited", done=int(done), total=int(total)))
            time.sleep(min(0.5, total - done))
        return ""

    def take_out() -> str:
        for server, names in models.items():
            unload(server.control, names, UNLOAD_WAIT_S)
        return ""

    return [
        Step(f"wait until no caller asks release {number} any more", wait),
        Step(
            f"unload release {number}: "
            + (
                " | ".join(
                    f"{server.endpoint}: {', '.join(sorted(names)) or 'nothing is loaded'}"
                    for server, names in models.items()
                )
            ),
            take_out,
        ),
    ]


def _delete_steps(repository: Path, app: str, number: int) -> list[Step]:
    """Remove a release's files, but for components that another release has as well."""
    release = read_release(repository, app, number)
    shared = _components_of_others(repository, app, number)
    own = sorted({one.model for one in release.components.values()} - shared)
    size = sum(
        file.bytes
        for one in release.components.values()
        if one.model in own
        for file in one.files.values()
    )

    def remove() -> str:
        # release.json first: from then on there is no such release, whatever is left of it.
        versions = [
            repository / release.alias(given) / str(number) for given in release.entry_points
        ]
        graphs = [repository / release.graph(given) for given in release.entry_points]
        trash = Path(tempfile.mkdtemp(prefix="trash-", dir=repository / STATE_FOLDER))
        for path in (*versions, *graphs, *(repository / model for model in own)):
            if path.exists():
                path.rename(trash / f"{path.parent.name}-{path.name}")
                flush_one(path.parent)
        shutil.rmtree(trash, ignore_errors=True)
        return f"{size / 1e6:.0f} MB"

    what = ", ".join(own) or "no component, as others use them all"
    return [Step(f"remove release {number} and {what}", remove)]


def _own_models(repository: Path, app: str, number: int, state: ServerState) -> set[str]:
    """What a server has loaded for this release alone."""
    release = _read(repository, app, number)
    if release is None:
        return set()
    graphs = {release.graph(given) for given in release.entry_points}
    others = (state.graphs | {state.release}) - {number}
    used = {
        component.model
        for other in others
        if (found := _read(repository, app, other)) is not None
        for component in found.components.values()
    }
    components = {component.model for component in release.components.values()} - used
    return (graphs | components) & state.models


def _components_of_others(repository: Path, app: str, number: int) -> set[str]:
    numbers = (other for other in list_releases(repository, app) if other != number)
    others = [_read(repository, app, other) for other in numbers]
    return {one.model for other in others if other is not None for one in other.components.values()}


def _read(repository: Path, app: str, number: int) -> Release | None:
    try:
        return read_release(repository, app, number)
    except PublishError:
        return None


def _still_asked_s(repository: Path, app: str, number: int) -> float:
    """Seconds until the last caller has learnt that this release gets no requests any more."""
    times = [
        datetime.fromisoformat(entry.when)
        for entry in read_history(repository, app)
        if number in (entry.release, entry.former) and entry.action in MOVES_CALLERS
    ]
    last = max(times, default=None)
    if last is None:
        return 0.0
    since = (datetime.now(timezone.utc) - last).total_seconds()
    return min(QUIET_S, max(0.0, QUIET_S + 1 - since))
