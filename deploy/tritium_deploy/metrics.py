"""What a server says of itself to Prometheus, at `/metrics` of the readiness port.

Triton counts requests by the names of its models, which carry hashes; `tritium_model_info` says
what those names stand for, so that PromQL can join them. docs/monitoring.md lists every metric.
"""

from __future__ import annotations

import platform
import shutil
import threading
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client import generate_latest as exposition_of
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tritium_client import contract
from tritium_deploy.live import AppRelease
from tritium_deploy.readiness import STATES, StatusBoard
from tritium_deploy.served import ServedApps
from tritium_deploy.stubs import SHARED_MEMORY, list_stubs
from tritium_deploy.triton import Triton

PROBE_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Of a golden probe, which asks every entry point of an app once."""
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Source: Linux, Documentation/admin-guide/cgroup-v2.rst; `max` where there is no limit."""


class ServerMetrics:
    """Counts what happens to one server, and looks at the rest when it is asked.

    Safe to use from several threads.

    Args:
        triton: The server.
        served: What it serves.
        board: The states of its apps.
        certificate_expires: When the certificate of its gRPC port does; None for plain text.
    """

    def __init__(
        self,
        triton: Triton,
        served: ServedApps,
        board: StatusBoard,
        certificate_expires: datetime | None = None,
    ) -> None:
        self._triton = triton
        self._registry = CollectorRegistry()
        self._probes = Histogram(
            "tritium_golden_probe_seconds",
            "Time from asking every entry point of an app a golden sample to the last right answer",
            ["app"],
            buckets=PROBE_BUCKETS_S,
            registry=self._registry,
        )
        self._probe_failures = Counter(
            "tritium_golden_probe_failures",
            "Golden probes that were not answered, or not as PyTorch answered at build",
            ["app"],
            registry=self._registry,
        )
        for app in served.live:  # so that they are there, as 0, before anything has happened
            self._probes.labels(app.name)
            self._probe_failures.labels(app.name)
        self._state = _State(triton, served, board)
        self._registry.register(self._state)
        if certificate_expires is not None:
            Gauge(
                "tritium_certificate_expiry_timestamp_seconds",
                "When the certificate of the gRPC port expires, seconds since the epoch",
                registry=self._registry,
            ).set(certificate_expires.timestamp())
        ProcessCollector(registry=self._registry)

    def probed(self, app: str, seconds: float) -> None:
        """Note that golden samples were answered rightly, and how long it took."""
        self._probes.labels(app).observe(seconds)

    def probe_failed(self, app: str) -> None:
        """Note that a golden sample was answered wrongly, or not at all."""
        self._probe_failures.labels(app).inc()

    def restarted(self, model: str) -> None:
        """Note that the stubs of a component were started again."""
        self._state.count_restart(model)

    def exposition(self) -> bytes:
        """All of it and what the steps have done, in Prometheus' text format."""
        return exposition_of(self._registry) + self._triton.step_metrics()


class _State(Collector):
    """What is read when somebody asks: states, releases, processes, memory, disks."""

    def __init__(self, triton: Triton, served: ServedApps, board: StatusBoard) -> None:
        self._triton = triton
        self._served = served
        self._board = board
        self._lock = threading.Lock()
        self._restarts: defaultdict[str, int] = defaultdict(int)
        self._disks = {
            "repository": served.repository,
            "shared_memory": SHARED_MEMORY,
            "log": triton.log.parent,
        }

    def count_restart(self, model: str) -> None:
        with self._lock:
            self._restarts[model] += 1

    def collect(self) -> Iterator[Metric]:
        """Called at each scrape."""
        yield _gauge("build_info", "The versions that run here.", _build())
        yield from self._apps()
        yield from self._releases()
        yield from self._processes()
        yield from self._space()

    def _apps(self) -> Iterator[Metric]:
        ready = GaugeMetricFamily(
            "tritium_ready", "1 while an app answers its golden samples.", labels=["app"]
        )
        states = GaugeMetricFamily(
            "tritium_app_state", "1 for the state that an app is in.", labels=["app", "state"]
        )
        for status in self._board.statuses():
            ready.add_metric([status.app], float(status.state == "ready"))
            for state in STATES:
                states.add_metric([status.app, state], float(status.state == state))
        yield from (ready, states)

    def _releases(self) -> Iterator[Metric]:
        stages = GaugeMetricFamily(
            "tritium_release_info",
            "A release that is loaded: stage live, canary (it gets a share) or candidate.",
            labels=["app", "release", "stage"],
        )
        shares = GaugeMetricFamily(
            "tritium_rollout_percent",
            "Share of an app's requests that a candidate answers (canary) or is asked as well "
            "(shadow), in percent.",
            labels=["app", "release", "share"],
        )
        models = GaugeMetricFamily(
            "tritium_model_info",
            "What a Triton model is: an entry point (no release), a release's own ensemble, or a "
            "component (step), once for each release that it belongs to.",
            labels=["model", "app", "release", "entry_point", "step"],
        )
        for app in self._served.live:
            rollout = self._served.rollout(app.name)
            number = str(app.release.number)
            stages.add_metric([app.name, number, "live"], 1)
            if rollout is not None:
                candidate = str(rollout.candidate)
                shares.add_metric([app.name, candidate, "canary"], rollout.canary_percent)
                shares.add_metric([app.name, candidate, "shadow"], rollout.shadow_percent)
            routers = {contract.router(app.name)} & self._served.helpers
            for entry_point in (*app.entry_points, *routers):
                models.add_metric([entry_point, app.name, "", entry_point, ""], 1)
            for beside in self._served.beside(app.name):
                canary = _is_canary(beside, rollout)
                stage = "canary" if canary else "candidate"
                stages.add_metric([app.name, str(beside.release.number), stage], 1)
        for release in self._served.loaded:
            for labels in _models(release):
                models.add_metric(labels, 1)
        yield from (stages, shares, models)

    def _processes(self) -> Iterator[Metric]:
        restarts = CounterMetricFamily(
            "tritium_stub_restarts",
            "How often the stub processes of a component were started again after one died.",
            labels=["model"],
        )
        running = GaugeMetricFamily(
            "tritium_stubs", "Stub processes of a component that run.", labels=["model"]
        )
        memory = GaugeMetricFamily(
            "tritium_resident_memory_bytes",
            "Resident memory of tritonserver, of all stubs of a component, and of tritium serve. "
            "Pages that processes share count for each of them.",
            labels=["process", "model"],
        )
        with self._lock:
            counts = dict(self._restarts)
        components = {model for app in self._served.loaded for model in app.components}
        for model in sorted(components | self._served.helpers | set(counts)):
            restarts.add_metric([model], counts.get(model, 0))
        memory.add_metric(["serve", ""], psutil.Process().memory_info().rss)
        if self._triton.started:
            stubs = list_stubs(self._triton.pid)
            numbers = Tally(stub.model for stub in stubs)
            for model in sorted(components | set(numbers)):
                running.add_metric([model], numbers[model])
            memory.add_metric(["tritonserver", ""], _resident(self._triton.pid))
            sizes: Tally[str] = Tally()
            for stub in stubs:
                sizes[stub.model] += _resident(stub.pid)
            for model, size in sorted(sizes.items()):
                memory.add_metric(["stub", model], size)
        yield from (restarts, running, memory)

    def _space(self) -> Iterator[Metric]:
        yield _gauge(
            "memory_limit_bytes",
            "What the container may use, or what the machine has.",
            {},
            memory_limit(),
        )
        free = GaugeMetricFamily(
            "tritium_filesystem_free_bytes",
            "What is free on the filesystem of the repository, of /dev/shm, of the log.",
            labels=["filesystem"],
        )
        size = GaugeMetricFamily(
            "tritium_filesystem_size_bytes", "Its size.", labels=["filesystem"]
        )
        for name, path in self._disks.items():
            try:
                usage = shutil.disk_usage(path)
            except OSError:  # a network filesystem that is gone; what is missing is seen, too
                continue
            free.add_metric([name], usage.free)
            size.add_metric([name], usage.total)
        yield from (free, size)


def memory_limit() -> int:
    """Bytes of memory that the container may use, or that the machine has."""
    machine = int(psutil.virtual_memory().total)
    try:
        limit = CGROUP_LIMIT.read_text("ascii").strip()
    except OSError:
        return machine
    return min(machine, int(limit)) if limit.isdigit() else machine


def _is_canary(app: AppRelease, rollout: contract.Rollout | None) -> bool:
    return (
        rollout is not None
        and rollout.candidate == app.release.number
        and rollout.canary_percent > 0
    )


def _models(app: AppRelease) -> Iterator[list[str]]:
    """The labels of `tritium_model_info` for what belongs to one release alone, or to it, too."""
    number = str(app.release.number)
    aliases = {tuple(given): alias for alias, given in app.entry_points.items()}
    for graph, given in app.graphs.items():
        yield [graph, app.name, number, aliases[tuple(given)], ""]
    for role, component in app.release.components.items():
        yield [component.model, app.name, number, "", role]


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _build() -> Mapping[str, str]:
    try:
        tritium = version("tritium")
    except PackageNotFoundError:  # run from a folder that was not installed
        tritium = "unknown"
    return {"version": tritium, "python": platform.python_version()}


def _gauge(name: str, text: str, labels: Mapping[str, str], value: float = 1.0) -> Metric:
    family = GaugeMetricFamily(f"tritium_{name}", text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family
