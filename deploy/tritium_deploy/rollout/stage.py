"""Stage a release: verify it, load it beside the live one, and have it answer golden samples.

Nothing of this touches what callers get. What fails is taken out again, on every server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tritium_builders.release import Release
from tritium_deploy.accelerator import require_plans_fit
from tritium_deploy.control import load_reason
from tritium_deploy.errors import (
    CandidateError,
    ControlError,
    GoldenError,
    PlanMismatchError,
    RepositoryError,
    TuningError,
    UnsignedError,
)
from tritium_deploy.live import AppRelease, read_app_release
from tritium_deploy.loading import UNLOAD_WAIT_S, load_beside, unload
from tritium_deploy.machine import PYTHON, Machine
from tritium_deploy.rollout.fleet import Fleet, FleetServer, ServerState
from tritium_deploy.rollout.plan import OnStep, Step, StepEvent
from tritium_deploy.rollout.settings import RolloutSettings
from tritium_deploy.verify import find_changed_file

OLDEST_TRITON = (2, 51)
"""What is tested: 24.10. Nested ensembles and models that are pointed elsewhere need no less."""
STUB_MB = 40
"""What a process takes before it has loaded anything; the plan's estimate of memory adds it."""


@dataclass(frozen=True)
class Placement:
    """A release on one server."""

    app: AppRelease
    """With the configs that this server runs it with."""
    components: tuple[str, ...]
    """That it has to load."""
    graphs: tuple[str, ...]
    """That it has to load."""


def read_candidate(repository: Path, app: str, number: int) -> AppRelease:
    """Read a release that is to be staged.

    Raises:
        CandidateError: it is not there, or something of it is missing.
    """
    try:
        return read_app_release(repository, app, number)
    except RepositoryError as error:
        raise CandidateError(app, number, str(error)) from error


def place(
    candidate: AppRelease, states: Mapping[FleetServer, ServerState], repository: Path
) -> dict[FleetServer, Placement]:
    """Find out what every server has to load.

    Raises:
        CandidateError: a server cannot run the release; names the server and why.
    """
    placements = {}
    for server, state in states.items():
        try:
            _require_runs_on(candidate.release, state)
            here = server.here(candidate, state, repository)
        except (PlanMismatchError, UnsignedError, TuningError, _UnfitError) as error:
            fault = f"server {server.endpoint}: {error}"
            raise CandidateError(candidate.name, candidate.release.number, fault) from error
        placements[server] = Placement(
            here,
            tuple(model for model in here.components if model not in state.models),
            tuple(graph for graph in here.graphs if graph not in state.models),
        )
    return placements


def stage_steps(
    candidate: AppRelease,
    placements: Mapping[FleetServer, Placement],
    fleet: Fleet,
    repository: Path,
    settings: RolloutSettings,
    on_step: OnStep,
) -> list[Step]:
    """The steps of staging a release; done again, they verify it again and load nothing."""
    release = candidate.release
    loaded: dict[FleetServer, list[str]] = {}
    files = sum(len(component.files) for component in release.components.values())
    size = sum(one.bytes for part in release.components.values() for one in part.files.values())

    def undo() -> None:
        fleet.each(lambda server: unload(server.control, loaded.get(server, []), UNLOAD_WAIT_S))

    def verify() -> str:
        fault = find_changed_file(repository, release)
        if fault is not None:
            raise CandidateError(candidate.name, release.number, fault)
        return ""

    def load() -> str:
        def one(server: FleetServer) -> list[str]:
            with server.explained():
                return load_beside(
                    server.control,
                    placements[server].app,
                    settings.load_timeout_s,
                    lambda model: on_step(StepEvent("note", f"{server.endpoint}: loaded {model}")),
                )

        results = fleet.each(one, list(placements))
        for server, result in results.items():
            loaded[server] = [] if isinstance(result, Exception) else result
        _raise_first(candidate, results, undo)
        return _count(sum(map(len, loaded.values())), "model")

    def replay() -> str:
        def one(server: FleetServer) -> float:
            return server.replay.check(
                placements[server].app, graphs=True, timeout_s=settings.golden_timeout_s
            ).largest_difference

        results = fleet.each(one, list(placements))
        _raise_first(candidate, results, undo)
        largest = max(one for one in results.values() if not isinstance(one, Exception))
        return f"largest difference from PyTorch {largest:.2g}"

    return [
        Step(f"verify {files} files, {size / 1e6:.0f} MB", verify),
        Step(_describe_loads(placements), load),
        Step(
            f"answer {len(candidate.golden)} golden samples through release {release.number}'s own "
            f"entry points on {_count(len(placements), 'server')}",
            replay,
        ),
    ]


def memory_notes(placements: Mapping[FleetServer, Placement]) -> tuple[str, ...]:
    """How much memory a server will need for what it has to load, in words."""
    notes = []
    for server, placement in placements.items():
        if not placement.components:
            continue
        needs = sum(_megabytes(placement.app, model) for model in placement.components)
        notes.append(
            f"{server.endpoint} will need about {needs:.0f} MB more (engines' files and "
            f"{STUB_MB} MB, for each process)"
        )
    return tuple(notes)


class _UnfitError(Exception):
    """A server's packages cannot run the release."""


def _require_runs_on(release: Release, state: ServerState) -> None:
    if _numbers(state.triton)[:2] < OLDEST_TRITON:
        raise _UnfitError(
            f"its Triton is {state.triton}, and releases are made for "
            f"{'.'.join(map(str, OLDEST_TRITON))} and newer"
        )
    require_plans_fit(release, state.accelerator)
    machine = state.machine
    if machine is None:
        return
    _require_python(release, machine)
    if release.target == "tensorrt":
        return
    for package in (release.target, "onnxruntime"):
        built = release.tools.get(package) or release.tools.get(f"{package} (heads)")
        if built is None:
            continue
        there = machine.packages.get(package)
        if there is None:
            raise _UnfitError(
                f"the release was built with {package} {built}, which is not installed there; "
                'pip install "tritium[serve]" there'
            )
        if _numbers(there)[:2] < _numbers(built)[:2]:
            raise _UnfitError(
                f"the release was built with {package} {built}, and there is {there}, which is "
                "older; install the same version there, or build the release with it"
            )


def _require_python(release: Release, machine: Machine) -> None:
    built, there = release.tools.get(PYTHON), machine.packages.get(PYTHON)
    if built is None or there is None or _numbers(there)[:2] == _numbers(built)[:2]:
        return
    # Another Python writes its own compiled files into the release at the first load, and Triton
    # would take that for a change, and start components again amid requests.
    raise _UnfitError(
        f"the release was built with Python {built}, and its servables would run on {there} there; "
        "build it with that Python"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _raise_first(
    candidate: AppRelease,
    results: Mapping[FleetServer, object],
    undo: Callable[[], None],
) -> None:
    """Undo everything and say what failed, where something did."""
    failed = {one: found for one, found in results.items() if isinstance(found, Exception)}
    if not failed:
        return
    undo()
    server, error = next(iter(failed.items()))
    if isinstance(error, ControlError | GoldenError):
        reason = error.reason if isinstance(error, ControlError) else str(error)
        fault = f"server {server.endpoint}: {load_reason(reason)}"
        raise CandidateError(candidate.name, candidate.release.number, fault) from error
    raise error


def _describe_loads(placements: Mapping[FleetServer, Placement]) -> str:
    parts = []
    for server, placement in placements.items():
        names = ", ".join(placement.components) or "no component (all are loaded)"
        graphs = _count(len(placement.graphs), "ensemble")
        parts.append(f"{server.endpoint}: load {names}; {graphs}")
    return " | ".join(parts)


def _megabytes(app: AppRelease, model: str) -> float:
    """What a component's processes will take, by the size of what they load."""
    role = next(role for role, one in app.release.loaded.items() if one.model == model)
    roles = [role]
    if role == "encoders":
        heads = ("fusion_head", "fusion_head_text", "fusion_head_image")
        roles = [one for one in app.release.components if one not in heads]
    files = [file for one in roles for file in app.release.components[one].files.values()]
    instances = max(1, app.instances.get(model, 1))
    return instances * (sum(file.bytes for file in files) / 1e6 + STUB_MB)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
