"""Measure along the axes: one server, one place after the other, over and over.

curves = measure(CurveOptions("openmoji"), on_step=print)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tritium_benchmarks.contenders import CONTENDERS, TRITIUM, Running, Subject, running
from tritium_benchmarks.curves.axes import AXES, Axis, Point
from tritium_benchmarks.curves.records import Curves, Place
from tritium_benchmarks.driver import Load, closed_loop, hold
from tritium_benchmarks.errors import BenchmarkError
from tritium_benchmarks.inputs import Request, make_requests
from tritium_benchmarks.manifest import make_manifest
from tritium_benchmarks.planning import live_release_of
from tritium_benchmarks.records import Latency, short
from tritium_builders.release import Release
from tritium_client.contract import Role
from tritium_deploy.control import ModelControl
from tritium_deploy.live import read_config
from tritium_deploy.tuning import ComponentTuning, Tuning, machine_tuning, tuned_configs

LOAD_TIMEOUT_S = 120.0
OnStep = Callable[[str, int, int], None]
"""Told what is measured now, how many places are done, and how many there are."""


@dataclass(frozen=True)
class CurveOptions:
    """What to measure, and how long."""

    app: str
    axes: tuple[str, ...] = tuple(AXES)
    repository: Path = Path("model_repository")
    seconds: float = 2.0
    """Of each place."""
    repeats: int = 3


def measure(
    options: CurveOptions,
    on_step: OnStep = lambda *_: None,
    keep: Callable[[Curves], object] = lambda _: None,
) -> Curves:
    """Measure every place of every axis, `repeats` times in turns.

    Args:
        options: What to measure.
        on_step: Told what comes now.
        keep: Given what there is, before the first place and after each: whoever cannot keep it
            says so before minutes have passed.

    Raises:
        BenchmarkError: the app is not there, an axis is not known, or a server did not start.
    """
    release = live_release_of(options.repository, options.app)
    unknown = sorted(set(options.axes) - set(AXES))
    if unknown:
        raise BenchmarkError(f"no axis is called {unknown[0]!r}; there are: {', '.join(AXES)}")
    cores = len(os.sched_getaffinity(0))
    points = [(AXES[name], point) for name in options.axes for point in AXES[name].points(cores)]
    by_cores: dict[int, list[tuple[Axis, Point]]] = {}
    for axis, point in points:
        by_cores.setdefault(point.cores or cores, []).append((axis, point))
    total = options.repeats * len(points)
    manifest = make_manifest(options.repository, options.app)
    curves = Curves(app=options.app, manifest=manifest, seconds=options.seconds, places=())
    keep(curves)
    prepared = _Prepared(options, release)
    for repeat in range(options.repeats):
        for count, same in by_cores.items():
            with prepared.server(count) as server:
                for axis, point in same:
                    on_step(f"{axis.title}: {point.x}", len(curves.places), total)
                    place = _place(axis, point, repeat, prepared.measure(server, point))
                    curves = curves.model_copy(update={"places": (*curves.places, place)})
                    keep(curves)
    return curves


class _Prepared:
    """What all places share: requests that were made once, and servers."""

    def __init__(self, options: CurveOptions, release: Release) -> None:
        self._options = options
        self._release = release
        self._requests: dict[str, list[Request]] = {}
        self._cores = os.sched_getaffinity(0)
        self._max_batch: int | None = None

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
        seconds = self._options.seconds
        return hold(
            server, self._options.app, self._release.labels, self._requests[key],
            lambda caller: closed_loop(caller, in_flight=point.in_flight, seconds=seconds),
        )  # fmt: skip

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
        per_second=short(load.per_second),
        latency=Latency.of(load.latencies_ms) if len(load.latencies_ms) else None,
        failures=dict(load.failures),
        generator_cpu=short(load.generator_cpu),
    )
