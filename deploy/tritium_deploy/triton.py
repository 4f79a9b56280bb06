"""One tritonserver process: its run folder, its command line, its start and its end."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from tritium_client import contract
from tritium_deploy import guard, step_metrics
from tritium_deploy.control import ModelControl
from tritium_deploy.errors import PortTakenError, SharedMemoryError, StartError
from tritium_deploy.installation import Installation
from tritium_deploy.ports import Ports, require_free
from tritium_deploy.run_folder import RunFolder
from tritium_deploy.security import admin_key
from tritium_deploy.security.certificates import CheckedTls
from tritium_deploy.stubs import (
    SHARED_MEMORY,
    Stub,
    end_stubs,
    list_stubs,
    remove_region,
)
from tritium_deploy.tracing import Tracing

MEBIBYTE = 1024 * 1024
REGION_BYTES = MEBIBYTE
"""What the Python backend takes in /dev/shm for each instance before any request."""
REQUEST_BYTES = 24 * MEBIBYTE
"""What has to be left for requests: one encoded picture of the largest accepted size."""
START_TIMEOUT_S = 30.0
INFORMATION = re.compile(r"I\d{4} ")
"""How lines of its log begin that say what goes well."""
EXIT_TIMEOUT_S = 3
PING_INTERVAL_MS = 1_000
"""Triton's own limit is 5 minutes, and 2 hours between requests: it would close the connection of a
client or a proxy that asks, every few seconds, whether the server is still there."""


@dataclass(frozen=True)
class TritonOptions:
    """How one tritonserver is started."""

    repository: Path
    ports: Ports
    host: str = "127.0.0.1"
    """The address of gRPC and metrics. HTTP never leaves loopback: a request of a million one-byte
    chunks crashes this Triton (fixed in 25.07)."""
    http: bool = False
    response_cache_mib: int = 0
    """Mebibytes for answers that are given again; 0 for none."""
    version_compatible_plans: bool = False
    """Let TensorRT load plans that an older release built, host code included."""
    apps: tuple[str, ...] = ()
    """Become the server's name, where clients find them."""
    router: bool = False
    """Serve the models of `Triton.router` beside those of the repository."""
    admin_key: str | None = None
    """What model control, logging and trace settings and shared memory ask for; None for nothing.
    """
    tls: CheckedTls | None = None
    """Of gRPC; None for plain text."""
    tracing: Tracing | None = None
    """None: no request is traced."""
    log: Path | None = None
    """None: in the run folder, removed with it when the server ends well."""


class Triton:
    """A tritonserver under its guard: it ends with this process, whatever ends this process.

    Args:
        installation: What to run.
        options: How to run it.
    """

    def __init__(self, installation: Installation, options: TritonOptions) -> None:
        self._installation = installation
        self._options = options
        self._folder = RunFolder()
        self._guard: subprocess.Popen[str] | None = None
        self._pid: int | None = None
        self._status: int | None = None
        self._stubs: dict[int, Stub] = {}
        self.exited = threading.Event()
        self.log = options.log or self._folder.log
        self.router = self._folder.router

    @property
    def started(self) -> bool:
        """Whether there is, or was, a process."""
        return self._pid is not None

    @property
    def pid(self) -> int:
        """The process id of tritonserver."""
        if self._pid is None:
            raise RuntimeError("tritonserver was not started")
        return self._pid

    def start(self, control: ModelControl) -> None:
        """Start it and wait until it answers; no model is loaded yet.

        Raises:
            PortTakenError: naming the port.
            SharedMemoryError: when /dev/shm is full.
            StartError: with the log's last error.
        """
        host, ports = self._options.host, self._options.ports
        require_free("grpc", host, ports.grpc)
        require_free("metrics", host, ports.metrics)
        if self._options.http:
            require_free("http", "127.0.0.1", ports.http)
        self._spawn()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (self._listens() and control.live()):
            if self.exited.wait(0.02):
                raise self._explain_exit()
            if time.monotonic() > deadline:
                raise StartError(f"did not answer within {START_TIMEOUT_S:.0f} s", self.log)

    def stubs(self) -> list[Stub]:
        """Its living stubs; each is remembered, so that none can outlive the server."""
        stubs = list_stubs(self.pid)
        self._stubs.update((stub.pid, stub) for stub in stubs)
        return stubs

    def step_metrics(self) -> bytes:
        """What the steps of its apps' `encoders` have done so far, in Prometheus' text format."""
        return step_metrics.exposition(self._folder.counts)

    def forget(self, stub: Stub) -> None:
        """Remove what a dead stub left behind."""
        remove_region(stub.region)
        self._stubs.pop(stub.pid, None)

    def describe_exit(self) -> str:
        """Say how it ended, for instance `was killed by SIGKILL`."""
        if not self.exited.is_set():
            return "is running"
        if self._status is None:
            return "ended with its guard process, which somebody killed"
        if self._status < 0:
            return f"was killed by {signal.Signals(-self._status).name}"
        return f"ended with exit status {self._status}"

    def stop(self, *, keep_log: bool, patience_s: float = EXIT_TIMEOUT_S + 2) -> None:
        """End it and everything it started, and remove what it left behind.

        Args:
            keep_log: Keep the log even when it lies in the run folder.
            patience_s: Seconds between SIGTERM and SIGKILL.
        """
        if self._pid is not None:
            self.stubs()
            for number, patience in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 15)):
                if not self.exited.is_set():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(self._pid, number)
                    self.exited.wait(patience)
            # The guard has done this already, unless somebody killed it too.
            end_stubs(list(self._stubs.values()))
        self._end_guard()
        self._folder.remove(keep_log=keep_log)

    def log_tail(self, lines: int = 5, about: str = "") -> str:
        """The last warnings and errors of the log that mention `about`, on one line."""
        found = [
            line
            for line in self._read_log().splitlines()
            if about in line and line.strip() and not INFORMATION.match(line)
        ]
        return " | ".join(line.strip()[:300] for line in found[-lines:])

    def _spawn(self) -> None:
        """Start tritonserver through its guard.

        Raises:
            StartError: when a file cannot be written or the binary does not execute.
        """
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            command = self._command(self._installation.prepare_backends(self._folder.path))
            with self.log.open("ab") as log:
                self._guard = subprocess.Popen(
                    [sys.executable, "-I", guard.__file__, str(self._folder.path), *command],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env={
                        **self._installation.environment(),
                        step_metrics.VARIABLE: str(self._folder.counts),
                    },
                    pass_fds=(self._folder.lock_fd,),
                    # Ctrl-C must reach `tritium serve` alone, which drains first.
                    start_new_session=True,
                )
        except OSError as error:
            raise StartError(f"cannot be started: {error}", self.log) from error
        first = self._hear()
        if first is None:
            self.exited.set()
            raise self._explain_exit()
        self._pid = int(first)
        threading.Thread(target=self._await_end, name="tritonserver", daemon=True).start()

    def _await_end(self) -> None:
        status = self._hear()
        self._status = None if status is None else int(status)
        self.exited.set()

    def _hear(self) -> str | None:
        """The number in the guard's next line, or None when it ended without one."""
        if self._guard is None or self._guard.stdout is None:
            return None
        return self._guard.stdout.readline().partition(" ")[2].strip() or None

    def _end_guard(self) -> None:
        if self._guard is None:
            return
        # Leaving the context closes the pipes, which is how the guard learns that we are gone.
        with self._guard, contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(0 if self._pid is None else 15)

    def _command(self, backends: Path) -> list[str]:
        options, ports = self._options, self._options.ports
        return [
            str(self._installation.binary),
            f"--model-repository={options.repository}",
            *([f"--model-repository={self.router}"] if options.router else []),
            f"--backend-directory={backends}",
            f"--cache-directory={self._installation.caches}",
            "--model-control-mode=explicit",
            # Our configs are complete; completing them would start each stub twice.
            "--disable-auto-complete-config",
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
            f"--grpc-address={options.host}",
            f"--grpc-port={ports.grpc}",
            # No name: Triton takes one there, and listens at 255.255.255.255.
            f"--metrics-address={socket.gethostbyname(options.host)}",
            f"--metrics-port={ports.metrics}",
            # p50, p95 and p99 of each model: this Triton has no histograms for them.
            "--metrics-config=summary_latencies=true",
            f"--allow-http={str(options.http).lower()}",
            "--http-address=127.0.0.1",
            f"--http-port={ports.http}",
            f"--backend-config=python,shm-region-prefix-name={self._folder.region_prefix}",
            f"--id={contract.format_server_id(options.apps)}",
            f"--grpc-http2-min-recv-ping-interval-without-data={PING_INTERVAL_MS}",
            "--grpc-keepalive-permit-without-calls=1",
            *self._restrictions(),
            *self._tls(),
            *(options.tracing.arguments() if options.tracing else []),
            *(
                [f"--cache-config=local,size={options.response_cache_mib * MEBIBYTE}"]
                if options.response_cache_mib
                else []
            ),
            *(
                ["--backend-config=tensorrt,version-compatible=true"]
                if options.version_compatible_plans
                else []
            ),
        ]

    def _restrictions(self) -> list[str]:
        """Protocols that ask for the admin key. Triton takes it from nowhere but its arguments."""
        key = self._options.admin_key
        if key is None:
            return []
        what = f"{','.join(admin_key.RESTRICTED)}:{{name}}={key}"
        grpc = "--grpc-restricted-protocol=" + what.format(name=admin_key.NAME)
        http = "--http-restricted-api=" + what.format(name=admin_key.NAME)
        return [grpc, http] if self._options.http else [grpc]

    def _tls(self) -> list[str]:
        tls = self._options.tls
        if tls is None:
            return []
        pair = [f"--grpc-server-cert={tls.files.certificate}", f"--grpc-server-key={tls.files.key}"]
        if tls.client_roots is None:
            return ["--grpc-use-ssl=true", *pair]
        self._folder.client_roots.write_bytes(tls.client_roots)
        roots = f"--grpc-root-cert={self._folder.client_roots}"
        return ["--grpc-use-ssl-mutual=true", *pair, roots]

    def _listens(self) -> bool:
        """Whether it has opened every port that it was told to.

        Asked of the process itself: gRPC waits a second after its first refused connection, and
        somebody else's server may have taken a port since we looked.
        """
        ports = {self._options.ports.grpc, self._options.ports.metrics}
        if self._options.http:
            ports.add(self._options.ports.http)
        try:
            connections = psutil.Process(self.pid).net_connections("tcp")
        except psutil.NoSuchProcess:
            return False
        return ports <= {one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN}

    def _read_log(self) -> str:
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def _explain_exit(self) -> PortTakenError | StartError:
        log = self._read_log()
        host, ports = self._options.host, self._options.ports
        # Somebody may have taken a port between our check and Triton's.
        for purpose, port, words in (
            ("grpc", ports.grpc, "GRPC|gRPC"),
            ("metrics", ports.metrics, "Metrics|metrics"),
            ("http", ports.http, "HTTP"),
        ):
            if re.search(rf"Socket '[^']*:{port}' already in use", log) or re.search(
                rf"failed to start ({words}).*(in use|unavailable)", log
            ):
                return PortTakenError(purpose, host, port)
        errors = re.findall(r"^(?:E\d{4} .*?\] |error: )(.*)$", log, re.MULTILINE)
        last = f": {errors[-1][:300]}" if errors else ""
        return StartError(f"{self.describe_exit()} while starting{last}", self.log)


def require_shared_memory(instances: int) -> None:
    """Fail before the Python backend does when /dev/shm is too small.

    Args:
        instances: How many stubs will start.

    Raises:
        SharedMemoryError: with what is free and what is needed.
    """
    free = shutil.disk_usage(SHARED_MEMORY).free // MEBIBYTE
    need = (instances * REGION_BYTES + REQUEST_BYTES) // MEBIBYTE
    if free < need:
        raise SharedMemoryError(
            f"{SHARED_MEMORY} has {free} MiB free and {need} MiB are needed; "
            "make it larger (Docker: --shm-size=1g; Linux: mount -o remount,size=1g /dev/shm)"
        )
