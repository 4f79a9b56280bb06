"""Measure one server: what its batches take, and what callers see over the offered rate.

record = measure_replica(target, MeasureOptions(seconds=3))
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from tritium_benchmarks.callers import Caller
from tritium_benchmarks.capacity.record import BatchTime, OpenPlace, ReplicaRecord
from tritium_benchmarks.contenders import CONTENDERS, TRITIUM, Running, Subject, running
from tritium_benchmarks.driver import Load, closed_loop, hold, open_loop
from tritium_benchmarks.errors import BenchmarkError
from tritium_benchmarks.inputs import make_requests
from tritium_benchmarks.manifest import make_manifest
from tritium_benchmarks.planning import live_release_of
from tritium_benchmarks.records import Latency, short
from tritium_benchmarks.workload import load_workload
from tritium_builders.release import Release

SHARES = (0.3, 0.5, 0.7, 0.85)
"""Of the closed loop's throughput: the rates of the sweep."""
FULLNESS = (1, 2, 4, 8)
"""Requests in flight for each instance: batches of several sizes form by themselves."""
LEAST_SAMPLES = 20
PAUSE_S = 0.02
WHOLE = ""
"""In place of a role: the whole request."""
STATISTICS_TIMEOUT_S = 10.0
MEBIBYTE = 2**20
OnStep = Callable[[str, int, int], None]
Samples = npt.NDArray[np.float64]
AnyLoad = Callable[[Caller], Any]


@dataclass(frozen=True)
class MeasureOptions:
    """How long to measure."""

    seconds: float = 4.0
    """Of each load; open loops are twice as long."""
    shares: tuple[float, ...] = SHARES
    seed: int = 0


@dataclass(frozen=True)
class Target:
    """One server that runs, and how to ask it."""

    app: str
    url: str
    hold: Callable[[AnyLoad], Any]
    """Connects, and holds a load of a caller."""
    models: dict[str, str]
    """Role -> Triton model, of everything that computes."""
    pids: tuple[int, ...] = ()
    manifest: dict[str, Any] | None = None
    release: Release | None = None


@contextmanager
def served(app: str, repository: Path, workload: str = "single") -> Iterator[Target]:
    """Serve the live release of an app until the block ends.

    Raises:
        BenchmarkError: the app is not there, or does not start.
    """
    release = live_release_of(repository, app)
    loaded = load_workload(workload)
    requests = make_requests(loaded, loaded.mix.distinct)
    subject = Subject(app, repository, Path(), Path())
    with running(CONTENDERS[TRITIUM], subject) as server:
        root = server.process
        children = [] if root is None else root.children(recursive=True)
        yield Target(
            app,
            server.url,
            lambda load: hold(
                Running(server.contender, server.url), app, release.labels, requests, load
            ),
            {role: component.model for role, component in release.loaded.items()},
            () if root is None else (root.pid, *(child.pid for child in children)),
            make_manifest(repository, app),
            release,
        )


def measure_replica(
    target: Target, options: MeasureOptions | None = None, on_step: OnStep = lambda *_: None
) -> ReplicaRecord:
    """Measure one server.

    Args:
        target: It, and how it is asked.
        options: How long.
        on_step: Told what comes now, how many loads are done, and how many there are.

    Raises:
        BenchmarkError: Triton does not tell its statistics, or nothing was answered.
    """
    options = options or MeasureOptions()
    steps = 1 + len(FULLNESS) + len(options.shares)
    done = 0

    def step(text: str) -> None:
        nonlocal done
        on_step(text, done, steps)
        done += 1

    step("one request at a time")
    alone = target.hold(lambda caller: _one_by_one(caller, target, options.seconds))
    component = max(alone, key=lambda role: float(np.sum(alone[role])) if role else 0.0)
    counted = alone[component] > 0  # Triton counts late now and then
    alone = {role: values[counted] for role, values in alone.items()}
    config = _config(target, component)
    instances = _instances(config)
    service: list[BatchTime] = []
    peak = 0.0
    for fullness in FULLNESS:
        in_flight = max(fullness * instances, 2)
        step(f"{in_flight} requests in flight")
        load, times = _closed(target, in_flight, options.seconds)
        service += times.get(component, [])
        peak = max(peak, load.per_second)
    places = []
    for number, share in enumerate(options.shares):
        step(f"{share * peak:.0f} requests per second")
        places.append(
            open_place(target.hold, share * peak, 2 * options.seconds, options.seed + number)
        )
    return _record(target, component, config, alone, service, places)


def _record(
    target: Target,
    component: str,
    config: Any,
    alone: dict[str, Samples],
    service: list[BatchTime],
    places: list[OpenPlace],
) -> ReplicaRecord:
    """All of it together; memory is that after all loads."""
    batching = config.dynamic_batching
    return ReplicaRecord(
        app=target.app,
        manifest=target.manifest or make_manifest(None, target.app),
        component=component,
        instances=_instances(config),
        # What is over a preferred size goes to another instance.
        max_batch=max(batching.preferred_batch_size, default=0) or config.max_batch_size or 1,
        queue=batching.default_queue_policy.max_queue_size or 2**31,
        cores=len(os.sched_getaffinity(0)),
        gpus=sum(
            max(len(group.gpus), 1)
            for group in config.instance_group
            if group.kind == group.KIND_GPU
        ),
        memory_mib=_memory_mib(target.pids),
        alone=Latency.of(alone[WHOLE]),
        alone_batch=Latency.of(alone[component]),
        alone_outside=Latency.of(alone[WHOLE] - alone[component]),
        service=tuple(service),
        places=tuple(places),
    )


def _instances(config: Any) -> int:
    return sum(group.count for group in config.instance_group) or 1


async def _one_by_one(caller: Caller, target: Target, seconds: float) -> dict[str, Samples]:
    """Send one request after another, and see what each took in every component.

    Returns:
        Role -> milliseconds of its batch, and `WHOLE` -> of the request, in the same order.
    """
    samples: dict[str, list[float]] = {}
    began = time.monotonic()
    await caller(0)
    number = 0
    while time.monotonic() < began + seconds or number < LEAST_SAMPLES:
        number += 1
        before = _batches(target)
        sent = time.perf_counter()
        await caller(number)
        whole = 1000 * (time.perf_counter() - sent)
        await asyncio.sleep(PAUSE_S)  # Triton counts a request after it has answered it
        took: dict[str, float] = {}
        for (role, size), (count, nanoseconds) in _batches(target).items():
            count_before, ns_before = before.get((role, size), (0, 0))
            if count - count_before == 1:
                took[role] = (nanoseconds - ns_before) / 1e6
        for role in set(took) | set(samples) - {WHOLE}:
            samples.setdefault(role, [0.0] * (number - 1)).append(took.get(role, 0.0))
        samples.setdefault(WHOLE, []).append(whole)
    if samples.keys() == {WHOLE}:
        raise BenchmarkError(f"{target.url} does not count what it computes")
    return {role: np.array(values) for role, values in samples.items()}


def open_place(
    hold_load: Callable[[AnyLoad], Any], rate: float, seconds: float, seed: int
) -> OpenPlace:
    """Send requests by chance at one rate, and sum up what came of it."""
    load: Load = hold_load(lambda caller: open_loop(caller, rate=rate, seconds=seconds, seed=seed))
    return OpenPlace(
        rate=rate,
        seconds=seconds,
        seed=seed,
        per_second=short(len(load.latencies_ms) / seconds),
        latency=Latency.of(load.latencies_ms) if len(load.latencies_ms) else None,
        failures=dict(load.failures),
        generator_cpu=short(load.generator_cpu),
        load_average=short(os.getloadavg()[0]),
    )


Times = dict[str, list[BatchTime]]


def _closed(target: Target, in_flight: int, seconds: float) -> tuple[Load, Times]:
    """Hold a load, and see what every component's batches took meanwhile."""
    before = _batches(target)
    load: Load = target.hold(
        lambda caller: closed_loop(caller, in_flight=in_flight, seconds=seconds)
    )
    times: Times = {}
    for (role, size), (count, nanoseconds) in _batches(target).items():
        count_before, ns_before = before.get((role, size), (0, 0))
        if count > count_before:
            mean = (nanoseconds - ns_before) / (count - count_before) / 1e6
            line = BatchTime(
                in_flight=in_flight, batch=size, count=count - count_before, mean_ms=short(mean)
            )
            times.setdefault(role, []).append(line)
    return load, times


def _batches(target: Target) -> dict[tuple[str, int], tuple[int, int]]:
    """Role and batch size -> how many, and the nanoseconds that they took together.

    Source: `batch_stats` of Triton's statistics extension.
    """
    try:
        with InferenceServerClient(target.url) as client:
            told = client.get_inference_statistics(client_timeout=STATISTICS_TIMEOUT_S)
    except InferenceServerException as error:
        raise BenchmarkError(
            f"{target.url} does not tell its statistics: {error.message()}"
        ) from error
    roles = {model: role for role, model in target.models.items()}
    found: Counter[tuple[str, int]] = Counter()
    spent: Counter[tuple[str, int]] = Counter()
    for model in told.model_stats:
        if model.name not in roles:
            continue
        for line in model.batch_stats:
            key = roles[model.name], int(line.batch_size)
            found[key] += line.compute_infer.count
            spent[key] += line.compute_input.ns + line.compute_infer.ns + line.compute_output.ns
    return {key: (found[key], spent[key]) for key in found}


def _config(target: Target, component: str) -> Any:
    """The config that the server runs a component with."""
    try:
        with InferenceServerClient(target.url) as client:
            return client.get_model_config(
                target.models[component], client_timeout=STATISTICS_TIMEOUT_S
            ).config
    except InferenceServerException as error:
        raise BenchmarkError(f"{target.url} does not tell its config: {error.message()}") from error


def _memory_mib(pids: tuple[int, ...]) -> float | None:
    total = 0
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += psutil.Process(pid).memory_full_info().pss
    return short(total / MEBIBYTE) if total else None
