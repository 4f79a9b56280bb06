"""Three servers, each with a supervisor of its own, behind one Envoy."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.client.test_security import Authority, authority
from tests.deploy.calls import wait_until
from tests.deploy.processes import Serve
from tests.deploy.tiny_repository import publish
from tests.support.envoy import Envoy, envoy

from tritium_client import Client, Tls, TritiumClientError
from tritium_deploy import Ports
from tritium_deploy import Server as RunningServer
from tritium_deploy.envoy import Certificates, Endpoint, EnvoySettings

CALLERS = 4
PER_SECOND = 40
DRAIN_DELAY_S = 1.5
"""Envoy asks every second whether a server is ready."""


@dataclass
class Server:
    """A `tritium serve` process that may be started again at the same ports."""

    repository: Path
    ports: Ports = field(default_factory=Ports.free)
    running: Serve | None = None
    triton: int = 0
    """The process id of its tritonserver."""

    def begin(self) -> Serve:
        """Start the process."""
        ports = self.ports
        self.running = Serve(
            self.repository,
            *("--grpc-port", str(ports.grpc), "--metrics-port", str(ports.metrics)),
            *("--ready-port", str(ports.ready), "--http-port", str(ports.http)),
            *("--drain-delay", str(DRAIN_DELAY_S)),
        )
        return self.running

    def start(self) -> None:
        """Start the process, and wait until it is ready."""
        running = self.begin()
        running.until("ready")
        self.triton = next(one["pid"] for one in running.events if one["event"] == "started")

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        assert self.running is not None
        return self.running.process.pid

    def end(self) -> int:
        """Wait until the process has ended, and give its status."""
        assert self.running is not None
        status = self.running.end()
        self.close()
        return status

    def close(self) -> None:
        """Kill what is left."""
        if self.running is not None:
            if self.running.process.poll() is None:
                self.running.process.kill()
            self.running.process.wait()
            assert self.running.process.stdout is not None
            self.running.process.stdout.close()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def loopback(endpoints: list[Endpoint], folder: Path, **more: object) -> EnvoySettings:
    """Settings for an Envoy on free ports of this machine, in plain text unless `tls` is given."""
    port, status_port, admin_port = free_ports(3)
    given: dict[str, object] = {
        "endpoints": tuple(endpoints), "host": "127.0.0.1", "port": port, "tls": None,
        "status_port": status_port, "admin_port": admin_port, "folder": str(folder),
    }  # fmt: skip
    return EnvoySettings(**given | more)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="session")
def secure(
    shared: RunningServer, ours: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Envoy]:
    """Envoy with TLS before one server."""
    folder = tmp_path_factory.mktemp("secure")
    settings = loopback(
        [Endpoint("127.0.0.1", shared.ports.grpc, shared.ports.ready)],
        folder,
        tls=Certificates(str(ours.file("server.pem")), str(ours.file("server.key"))),
        also=("ModelStatistics",),
    )
    with envoy(folder, settings) as running:
        assert wait_until(lambda: bool(running.healthy()), 10)
        yield running


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Three ready servers of one repository."""
    repository = tmp_path_factory.mktemp("fleet") / "repository"
    repository.mkdir()
    publish(repository)
    started = [Server(repository) for _ in range(3)]
    try:
        with ExitStack() as stack:
            for thread in [threading.Thread(target=one.start) for one in started]:
                thread.start()
                stack.callback(thread.join)
        yield started
    finally:
        for one in started:
            one.close()


@pytest.fixture(scope="session")
def proxy(servers: list[Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    """Envoy in front of them."""
    folder = tmp_path_factory.mktemp("envoy")
    endpoints = [Endpoint("127.0.0.1", one.ports.grpc, one.ports.ready) for one in servers]
    with envoy(folder, loopback(endpoints, folder)) as running:
        yield running


@pytest.fixture
def all_healthy(servers: list[Server], proxy: Envoy) -> None:
    """Every server gets requests."""
    everyone = {one.ports.grpc for one in servers}
    assert wait_until(lambda: proxy.healthy() == everyone, 20), proxy.servers()
    # One that was never asked for its health yet looks healthy in that list.
    members = "cluster.tritium.membership_"
    assert wait_until(lambda: proxy.counter(f"{members}healthy") == len(everyone), 20)
    assert wait_until(lambda: proxy.counter(f"{members}excluded") == 0, 20)


@dataclass
class Calls:
    """What callers met."""

    seconds: list[float] = field(default_factory=list)
    """Of each answer."""
    failed: list[str] = field(default_factory=list)
    attempts: int = 0
    """Requests that the SDK sent."""


@contextmanager
def load(url: str | Sequence[str], tls: Tls | None = None) -> Iterator[Calls]:
    """Ask `PER_SECOND` times a second with the SDK as it comes."""
    calls, stop, numbers = Calls(), threading.Event(), itertools.count()
    lock = threading.Lock()

    def run(client: Client, first: float) -> None:
        due = time.monotonic() + first
        while not stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + CALLERS / PER_SECOND, time.monotonic())
            sent, number = time.monotonic(), next(numbers)
            try:
                answer = client.classify(
                    text=f"caller {number}", image=b"pixels" * (number % 9 + 1)
                )
            except TritiumClientError as error:
                calls.failed.append(f"after {time.monotonic() - sent:.1f} s: {error!r}")
                continue
            with lock:
                calls.seconds.append(time.monotonic() - sent)
                calls.attempts += answer.timing.attempts

    with Client(url, app="tiny", tls=tls) as client:
        threads = [
            threading.Thread(target=run, args=(client, index / PER_SECOND))
            for index in range(CALLERS)
        ]
        for thread in threads:
            thread.start()
        try:
            yield calls
        finally:
            stop.set()
            for thread in threads:
                thread.join()
