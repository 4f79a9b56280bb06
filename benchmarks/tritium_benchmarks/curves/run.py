"""Measure along the axes: one server, one place after the other, over and over.

curves = measure(CurveOptions("openmoji"), on_step=print)
"""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tritium_benchmarks.callers import connected
from tritium_benchmarks.contenders import CONTENDERS, TRITIUM, Running, Subject, running
from tritium_benchmarks.curves.axes import AXES, Axis, Point
from tritium_benchmarks.driver import Load, closed_loop
from tritium_benchmarks.errors import BenchmarkError, RecordError
from tritium_benchmarks.inputs import Request, make_requests
from tritium_benchmarks.manifest import make_manifest
from tritium_benchmarks.planning import live_release_of
from tritium_benchmarks.records import Latency
from tritium_benchmarks.results import to_json
from tritium_builders.release import Release
from tritium_client.contract import Role
from tritium_deploy.control import ModelControl
from tritium_deploy.live import read_config
from tritium_deploy.tuning import ComponentTuning, Tuning, machine_tuning, tuned_configs

RECORD = "curves.json"
LOAD_TIMEOUT_S = 120.0
OnStep = Callable[[str, int, int], None]
"""Told what is measured now, how many places are done, and how many there are."""


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Place(_Kept):
    """One place on an axis under one load, once."""

    axis: str
    x: int
    in_flight: int
    repeat: int
    per_second: float
    latency: Latency | None
    """None where nothing was answered."""
    failures: dict[str, int]
    generator_cpu: float


class Curves(_Kept):
    """What a run along the axes measured."""

    app: str
    manifest: dict[str, Any]
    seconds: float
    places: tuple[Place, ...]

    def at(self, axis: str, in_flight: int | None = None) -> dict[int, list[Place]]:
        """X -> the places of all repeats, in the order of the axis."""
        found: dict[int, list[Place]] = {}
        for place in self.places:
            if place.axis == axis and in_flight in (None, place.in_flight):
                found.setdefault(place.x, []).append(place)
        return found


def median(places: Sequence[Place], of: Callable[[Place], float | None]) -> float | None:
    """The median over repeats of what each place says; None where none says anything."""
    values = [value for place in places if (value := of(place)) is not None]
    return statistics.median(values) if values else None


@dataclass(frozen=True)
class CurveOptions:
    """What to measure, and how long."""

    app: str
    axes: tuple[str, ...] = tuple(AXES)
    repository: Path = Path("model_repository")
    seconds: float = 2.0
    """Of each place."""
    repeats: int = 3


def measure(options: CurveOptions, on_step: OnStep = lambda *_: None) -> Curves:
    """Measure every place of every axis, `repeats` times in turns.

    Raises:
        BenchmarkError: the app is not there, an axis is not known, or a server did not start.
    """
    release = live_release_of(options.repository, options.app)
    unknown = sorted(set(options.axes) - set(AXES))
    if unknown:
        raise BenchmarkError(f"no axis is called {unknown[0]!r}; there are: {', '.join(AXES)}")
    cores = len(os.sched_getaffinity(0))
    axes = [AXES[name] for name in options.axes]
    plan = {
        count: [(axis, point) for axis in axes for point in axis.points(cores)
                if (point.cores or cores) == count]
        for count in sorted({point.cores or cores for axis in axes for point in axis.points(cores)})
    }  # fmt: skip
    total = options.repeats * sum(len(points) for points in plan.values())
    places: list[Place] = []
    with _Prepared(options, release) as prepared:
        for repeat in range(options.repeats):
            for count, points in plan.items():
                if not points:
                    continue
                with prepared.server(count) as server:
                    for axis, point in points:
                        on_step(f"{axis.title}: {point.x}", len(places), total)
                        load = prepared.measure(server, point)
                        places.append(_place(axis, point, repeat, load))
    manifest = make_manifest(options.repository, options.app)
    return Curves(app=options.app, manifest=manifest, seconds=options.seconds, places=tuple(places))


class _Prepared:
    """What all places share: requests that were made once, and servers."""

    def __init__(self, options: CurveOptions, release: Release) -> None:
        self._options = options
        self._release = release
        self._requests: dict[str, list[Request]] = {}
        self._cores = os.sched_getaffinity(0)
        self._max_batch: int | None = None

    def __enter__(self) -> _Prepared:
        return self

    def __exit__(self, *_: object) -> None:
        os.sched_setaffinity(0, self._cores)

    @contextmanager
    def server(self, cores: int) -> Iterator[Running]:
        """Serve on so many cores, and ask from the same."""
        os.sched_setaffinity(0, set(sorted(self._cores)[:cores]))
        self._max_batch = None
        subject = Subject(self._options.app, self._options.repository, Path(), Path())
        try:
            with running(CONTENDERS[TRITIUM], subject) as server:
                yield server
        finally:
            os.sched_setaffinity(0, self._cores)

    def measure(self, server: Running, point: Point) -> Load:
        """Hold one place's load."""
        if point.max_batch != self._max_batch:
            self._set_batch(server, point.max_batch)
        key = point.workload.model_dump_json()
        if key not in self._requests:
            distinct = point.workload.mix.distinct
            self._requests[key] = make_requests(point.workload, distinct)
        asked = self._requests[key]

        async def hold() -> Load:
            labels = self._release.labels
            async with connected(server, self._options.app, labels, asked) as caller:
                return await closed_loop(
                    caller, in_flight=point.in_flight, seconds=self._options.seconds
                )

        return asyncio.run(hold())

    def _set_batch(self, server: Running, size: int | None) -> None:
        if "encoders" not in self._release.loaded:
            raise BenchmarkError(
                f"{self._options.app} has no component `encoders`, whose batches could be varied; "
                "leave --axis batch out"
            )
        models: dict[Role, str] = {
            role: component.model for role, component in self._release.loaded.items()
        }
        app, cores = self._options.app, len(os.sched_getaffinity(0))
        default = machine_tuning(app, models, cores, own_cores=True).components["encoders"]
        asked = ComponentTuning(max_batch=size) if size else ComponentTuning()
        tuning = default.model_copy(update=asked.model_dump(exclude_none=True))
        configs = tuned_configs(
            Tuning(app=app, components={"encoders": tuning}),
            models,
            lambda model: read_config(self._options.repository, model),
        )
        control = ModelControl(server.url)
        try:
            for model, config in configs.items():
                control.load(model, LOAD_TIMEOUT_S, config)
        finally:
            control.close()
        self._max_batch = size


def _place(axis: Axis, point: Point, repeat: int, load: Load) -> Place:
    return Place(
        axis=axis.name,
        x=point.x,
        in_flight=point.in_flight,
        repeat=repeat,
        per_second=float(f"{load.per_second:.5g}"),
        latency=Latency.of(load.latencies_ms) if len(load.latencies_ms) else None,
        failures=dict(load.failures),
        generator_cpu=float(f"{load.generator_cpu:.3g}"),
    )


def write_curves(curves: Curves, folder: Path) -> Path:
    """Write `curves.json`.

    Raises:
        RecordError: the folder cannot be written.
    """
    path = folder / RECORD
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(to_json(curves.model_dump(mode="json")), "utf-8")
    except OSError as error:
        raise RecordError(f"{path} cannot be written ({error.strerror})") from error
    return path


def read_curves(folder: Path) -> Curves:
    """Read what `write_curves` wrote.

    Raises:
        RecordError: it is not there, or not what it should be.
    """
    path = folder / RECORD
    try:
        return Curves.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise RecordError(f"{path}: {error.errors()[0]['msg']}; measure again") from error
