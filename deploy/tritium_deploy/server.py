"""Serve a repository: check, start, load, replay golden samples, and only then be ready."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType

from tritium_builders.aliases import live_rollout
from tritium_deploy.accelerator import Accelerator, find_accelerator
from tritium_deploy.control import ModelControl
from tritium_deploy.drain import drain, linger
from tritium_deploy.errors import ServeError, ServerDiedError
from tritium_deploy.events import Event, OnEvent, ignore
from tritium_deploy.first_load import FirstLoad
from tritium_deploy.follow import Follower
from tritium_deploy.golden import GoldenReplay
from tritium_deploy.installation import find_installation
from tritium_deploy.live import load_live_apps, machines, on_machine
from tritium_deploy.metrics import ServerMetrics
from tritium_deploy.ports import Ports
from tritium_deploy.progress import Clock, Counter
from tritium_deploy.readiness import AppStatus, ReadinessServer, StatusBoard
from tritium_deploy.router import Router
from tritium_deploy.security import Security
from tritium_deploy.security.access import Access
from tritium_deploy.security.protection import Protection
from tritium_deploy.served import ServedApps, entry_point_configs, server_parameters
from tritium_deploy.tracing import Tracing
from tritium_deploy.triton import Triton, TritonOptions, require_shared_memory
from tritium_deploy.tuning import Tuning
from tritium_deploy.watch import Watcher, WatchOptions

DRAIN_TIMEOUT_S = 30.0
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 # nosec B104 # what somebody may ask for, not a default
IMPATIENCE_S = 0.5
"""Between SIGTERM and SIGKILL for a server that has nothing to finish, or cannot."""


@dataclass(frozen=True)
class ServeOptions:
    """What is seldom changed; the defaults suit production."""

    load_timeout_s: float = 120.0
    """For each model: an engine that compiles at load takes its time, one that hangs must not."""
    golden_timeout_s: float = 30.0
    """For each golden answer at start; the first ones warm the engines up."""
    watch: WatchOptions = field(default_factory=WatchOptions)


def serve(
    repository: str | Path,
    *,
    ports: Ports | None = None,
    host: str = "127.0.0.1",
    http: bool = False,
    apps: Sequence[str] | None = None,
    tritonserver: str | Path | None = None,
    log: str | Path | None = None,
    tunings: Sequence[Tuning] = (),
    response_cache_mib: int = 0,
    router: bool = False,
    security: Security | None = None,
    tracing: Tracing | None = None,
    options: ServeOptions | None = None,
    on_event: OnEvent = ignore,
) -> Server:
    """Start Triton on a repository and return when every app answers its golden samples.

    Args:
        repository: What `tritium build` published into.
        ports: Where to listen; None for the usual ones. `Ports.free()` finds free ones.
        host: The address of gRPC, metrics and readiness. Anything but loopback lets other
            machines use model control as well.
        http: Listen for inference over HTTP too, always on 127.0.0.1.
        apps: Which apps; None for every app with a live release.
        tritonserver: The binary; None for the one on PATH, else nvidia-pytriton's.
        log: Where Triton's log is appended; None for a file that goes when the server ends well.
        tunings: How components run on this machine, from `tritium bench tune`; at most one for
            each app. The repository's files stay as they are.
        response_cache_mib: Mebibytes in which entry points keep answers, to give them again to
            requests that are equal byte for byte; 0 for none. Another release has other answers.
        router: Load `<app>_route`, too, which makes a canary's split for callers without the SDK.
        security: TLS, the admin key, signed releases; None for plain text, a key that local clients
            of the same user find by themselves, and releases that need no signature.
        tracing: Where OpenTelemetry spans of requests go, and of which; None for none.
        options: Timeouts and limits.
        on_event: Told what happens, possibly from other threads.

    Returns:
        A ready server. Close it, or use it as a context manager: it is drained at the end.

    Raises:
        ServeError: with cause and fix in one line (see errors.py for its kinds); nothing is left
            running, and nothing is left in /dev/shm.
        MissingExtraError: when no tritonserver is installed.
        ValueError: `response_cache_mib` is negative.
    """
    if response_cache_mib < 0:
        raise ValueError(f"response_cache_mib must be 0 or more: {response_cache_mib}")
    options = options or ServeOptions()
    ports = ports or Ports()
    clock = Clock(on_event)
    protection = Protection(security or Security(), host, ports.grpc)
    for text in protection.warnings:
        clock.tell("warning", text)
    installation = find_installation(None if tritonserver is None else Path(tritonserver))
    repository = Path(repository).absolute()
    accelerator = find_accelerator(installation)
    found = load_live_apps(repository, apps, installation, accelerator, protection.trusted)
    here = machines(found, tunings, response_cache=response_cache_mib > 0)
    live = [on_machine(app, here[app.name], repository) for app in found]
    require_shared_memory(sum(sum(app.instances.values()) for app in live))
    names = ", ".join(f"{app.name} release {app.release.number}" for app in live)
    clock.step("checked", f"checked {names}", apps=[app.name for app in live])
    triton_options = TritonOptions(
        repository,
        ports,
        host,
        http=http,
        apps=tuple(app.name for app in live),
        log=None if log is None else Path(log).absolute(),
        response_cache_mib=response_cache_mib,
        router=router,
        admin_key=protection.access.admin_key,
        tls=protection.tls,
        tracing=tracing,
        version_compatible_plans=any(app.release.version_compatible for app in live),
    )
    server = Server(
        Triton(installation, triton_options),
        triton_options,
        ServedApps(repository, live, here, protection.trusted),
        protection,
        options,
        clock,
        accelerator,
    )
    try:
        server._start()
    except BaseException:
        server._abandon()
        raise
    return server


class Server:
    """A running Triton with its readiness port and its watcher; `serve` makes them."""

    def __init__(
        self,
        triton: Triton,
        triton_options: TritonOptions,
        served: ServedApps,
        protection: Protection,
        options: ServeOptions,
        clock: Clock,
        accelerator: Accelerator,
    ) -> None:
        self._triton = triton
        self._triton_options = triton_options
        self._served = served
        self._options = options
        self._clock = clock
        self._board = StatusBoard({app.name: app.release.number for app in served.live})
        self._metrics = ServerMetrics(triton, served, self._board, protection.certificate_expires)
        self._protection = protection
        access = protection.access
        self._control = ModelControl(self.grpc_url, access)
        self._first = FirstLoad(triton, self._control, options.load_timeout_s)
        self._cached = triton_options.response_cache_mib > 0
        self._replay = GoldenReplay(self.grpc_url, access, cached=self._cached)
        self._parameters = {
            app: server_parameters(
                machine, triton_options.apps, accelerator.parameters(), protection.trusted
            )
            for app, machine in served.machines.items()
        }
        self._router = Router(triton.router) if triton_options.router else None
        self._follower = Follower(
            self._control,
            served,
            self._board,
            self._parameters,
            self._router,
            response_cache=self._cached,
            load_timeout_s=options.load_timeout_s,
            on_event=clock.on_event,
        )
        self._readiness: ReadinessServer | None = None
        self._watcher: Watcher | None = None
        self._abort = threading.Event()
        self._ended = threading.Event()
        self._closing = threading.Lock()
        self._closed = False
        self._failure: ServerDiedError | None = None

    @property
    def ports(self) -> Ports:
        """Where it listens."""
        return self._triton_options.ports

    @property
    def grpc_url(self) -> str:
        """What `tritium_client.Client` takes: `host:port`."""
        return f"{self._address}:{self.ports.grpc}"

    @property
    def ready_url(self) -> str:
        """Answers 200 when every app answers, else 503."""
        return f"http://{self._address}:{self.ports.ready}/ready"

    @property
    def live_url(self) -> str:
        """Answers 200 while tritonserver runs."""
        return f"http://{self._address}:{self.ports.ready}/live"

    @property
    def metrics_url(self) -> str:
        """Triton's Prometheus metrics."""
        return f"http://{self._address}:{self.ports.metrics}/metrics"

    @property
    def step_metrics_url(self) -> str:
        """What this server says of itself, and of the steps of apps' `encoders`, to Prometheus."""
        return f"http://{self._address}:{self.ports.ready}/metrics"

    @property
    def http_url(self) -> str | None:
        """Inference over HTTP, or None when it was not asked for."""
        return f"http://127.0.0.1:{self.ports.http}" if self._triton_options.http else None

    @property
    def access(self) -> Access:
        """What a client of this machine brings: the admin key, and how gRPC is encrypted."""
        return self._protection.access

    @property
    def admin_key_file(self) -> Path | None:
        """Where its admin key is; None where it asks for none."""
        return None if self._protection.admin is None else self._protection.admin.file

    @property
    def certificate_expires(self) -> datetime | None:
        """When the certificate of its gRPC port does, UTC; None for plain text."""
        return self._protection.certificate_expires

    @property
    def log(self) -> Path:
        """Triton's log."""
        return self._triton.log

    @property
    def pid(self) -> int:
        """The process id of tritonserver."""
        return self._triton.pid

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of tritonserver and its living stubs."""
        return (self._triton.pid, *(stub.pid for stub in self._triton.stubs()))

    @property
    def apps(self) -> tuple[AppStatus, ...]:
        """The state of every app."""
        return self._board.statuses()

    @property
    def ready(self) -> bool:
        """Whether every app answers."""
        return not self._ended.is_set() and self._board.ready

    @property
    def startup_s(self) -> dict[str, float]:
        """Seconds that each step of the start took."""
        return dict(self._clock.steps)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the server has ended.

        Args:
            timeout_s: Seconds; None for as long as it takes.

        Returns:
            Whether it has ended.

        Raises:
            ServerDiedError: when tritonserver ended by itself.
        """
        ended = self._ended.wait(timeout_s)
        if self._failure is not None:
            raise self._failure
        return ended

    def close(self, drain_timeout_s: float = DRAIN_TIMEOUT_S, drain_delay_s: float = 0.0) -> bool:
        """Drain and stop: not ready first, then finish what is in flight, then end Triton.

        Args:
            drain_timeout_s: Seconds for requests in flight; what is left then fails.
            drain_delay_s: Seconds in which `/ready` says no and requests are still taken, so that
                load balancers learn of it before anybody is refused.

        Returns:
            Whether nothing was in flight any more. A second call returns True at once.
        """
        with self._closing:
            if self._closed:
                return True
            self._board.drain("the server is shutting down")
            if drain_delay_s > 0 and not self._triton.exited.is_set():
                self._clock.tell("leaving", f"takes requests for {drain_delay_s:g} s more")
                linger(drain_delay_s, self._triton.exited, self._abort)
            self._follower.stop()
            if self._watcher is not None:
                self._watcher.stop()
            drained = True
            if not self._triton.exited.is_set():
                self._clock.tell("draining", "finishing the requests in flight")
                drained = drain(
                    self._control,
                    self._served.loaded,
                    drain_timeout_s,
                    self._abort,
                    self._served.helpers,
                )
            # Drained or given up, nothing is left to wait for; of itself Triton looks once a second
            # whether its models are gone, and takes three to four.
            keep_log = not drained or self._failure is not None
            self._triton.stop(keep_log=keep_log, patience_s=IMPATIENCE_S)
            self._end(keep_log=keep_log)
            left = "" if drained else "; requests were still in flight and failed"
            self._clock.tell("stopped", f"stopped{left}", drained=drained)
            return drained

    def abort(self) -> None:
        """End a `close` that is under way without waiting for requests in flight."""
        self._abort.set()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _address(self) -> str:
        """Where this machine itself reaches the server."""
        host = self._triton_options.host
        return "127.0.0.1" if host == EVERY_ADDRESS else host

    def _start(self) -> None:
        ports, host = self.ports, self._triton_options.host
        self._readiness = ReadinessServer(
            host,
            ports.ready,
            self._board,
            lambda: not self._triton.exited.is_set(),
            self._metrics.exposition,
        )
        if self._router is not None:
            self._router.write(self._served.live)
        self._triton.start(self._control)
        if self._protection.admin is not None:
            self._protection.admin.leave()
        self._clock.step("started", f"tritonserver started (process {self.pid})", pid=self.pid)
        self._load_models()
        count = len({model for app in self._served.live for model in app.components})
        self._clock.step("loaded", f"loaded {count} components", components=count)
        self._check_golden()
        self._watcher = Watcher(
            self._triton,
            self._control,
            self._replay,
            self._served,
            self._follower.look,
            self._board,
            self._metrics,
            self._options.watch,
            self._clock.on_event,
            self._note_death,
        )
        self._follower.load_candidates()
        self._load_routers()
        self._watcher.start()
        self._follower.start()
        self._clock.tell(
            "ready",
            f"ready in {self._clock.total_s:.1f} s",
            seconds=round(self._clock.total_s, 3),
            apps={app.name: app.release.number for app in self._served.live},
            grpc=self.grpc_url,
            ready=self.ready_url,
            metrics=self.metrics_url,
            step_metrics=self.step_metrics_url,
            http=self.http_url,
            admin_key_file=None if self.admin_key_file is None else str(self.admin_key_file),
            log=str(self.log),
        )

    def _load_models(self) -> None:
        """Load every component at once, then the releases' graphs, then what callers name.

        Each is loaded by its own name: what Triton loads for the sake of an ensemble alone, it
        unloads with that.
        """
        live = self._served.live
        configs = {model: config for app in live for model, config in app.configs.items()}
        components = sorted({model for app in live for model in app.components})
        entry_points = {
            name: config
            for app in live
            for name, config in entry_point_configs(
                self._served.repository,
                app,
                live_rollout(self._served.repository, app.name),
                self._parameters[app.name],
                response_cache=self._cached,
            ).items()
        }
        graphs = [graph for app in live for graph in app.graphs]
        for models, config, what in (
            (components, configs.get, "components loaded"),
            (graphs, lambda _: None, "graphs loaded"),
            (list(entry_points), entry_points.get, "entry points loaded"),
        ):
            self._first.each(models, config, partial(self._progress, what, len(models)))

    def _load_routers(self) -> None:
        if self._router is None:
            return
        self._follower.look()  # it tells them who is live
        for model in sorted(self._router.models):
            self._first.load(model)
        self._served.helpers = self._router.models

    def _check_golden(self) -> None:
        answers, largest = 0, 0.0
        for app in self._served.live:
            total = len(app.golden) * len(app.entry_points)
            count = Counter(partial(self._progress, "golden answers", total))
            check = self._replay.check(
                app, again=False, timeout_s=self._options.golden_timeout_s, on_answer=count
            )
            answers += check.answers
            largest = max(largest, check.largest_difference)
            self._board.set_ready(app.name)
        self._clock.step(
            "golden",
            f"{answers} golden answers equal PyTorch's (largest difference {largest:.2g})",
            answers=answers,
            largest_difference=largest,
        )

    def _progress(self, what: str, total: int, done: int) -> None:
        self._clock.on_event(
            Event.of("progress", f"{what} {done}/{total}", what=what, done=done, total=total)
        )

    def _note_death(self) -> None:
        self._failure = ServerDiedError(self._triton.describe_exit(), self.log)
        self._board.drain(str(self._failure))
        self._clock.tell("died", str(self._failure), log=str(self.log))
        self._ended.set()

    def _abandon(self) -> None:
        """Undo a start that failed; the log stays, as the error names it."""
        with self._closing:
            self._follower.stop()
            if self._watcher is not None:
                self._watcher.stop()
            # Nothing is in flight, and a hanging load makes SIGTERM useless.
            self._triton.stop(keep_log=True, patience_s=IMPATIENCE_S)
            self._end(keep_log=True)

    def _end(self, *, keep_log: bool) -> None:
        self._closed = True
        self._triton.stop(keep_log=keep_log)
        if self._protection.admin is not None:
            self._protection.admin.remove()
        if self._readiness is not None:
            self._readiness.close()
        self._control.close()
        self._replay.close()
        self._ended.set()


__all__ = ["Ports", "ServeError", "ServeOptions", "Server", "serve"]
