"""Three servers and an Envoy that are started again whenever they end, as Kubernetes would.

Each server has a /dev/shm and a disk of its own, small ones, so that they can be filled without
anybody else noticing, and a wall clock of its own where there is a C compiler.
"""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.deploy.calls import wait_until
from tests.deploy.envoy.conftest import loopback
from tests.deploy.processes import Serve
from tests.deploy.tiny_repository import publish
from tests.support.envoy import Envoy, envoy

from tritium_deploy import Ports
from tritium_deploy.envoy import Endpoint
from tritium_deploy.stubs import list_stubs

COMPILER = shutil.which("cc")
CLOCK = Path(__file__).with_name("clock.c")
SHARED_MEMORY_MIB = 96
DISK_MIB = 64
PAUSE_S = 0.2
"""Before what ended is started again."""
READY_WITHIN_S = 60.0
OWN_MOUNTS = """
mount -t tmpfs -o size={shm}m tmpfs /dev/shm
mount -t tmpfs -o size={disk}m tmpfs {folder}
exec "$@"
"""


@dataclass
class Server:
    """A `tritium serve` with its own mounts; it is started again until `stop`."""

    repository: Path
    folder: Path
    """Where its disk is mounted, for itself alone: log and run folder lie there."""
    library: Path | None
    """What puts its clock off."""
    ports: Ports = field(default_factory=Ports.free)
    starts: int = 0
    ready: bool = False
    triton: int = 0
    """The process id of its tritonserver, 0 while there is none."""
    _serve: Serve | None = None
    _stopping: threading.Event = field(default_factory=threading.Event)
    _keeper: threading.Thread | None = None

    @property
    def pid(self) -> int:
        """Of the supervisor; 0 while there is none."""
        serve = self._serve
        return 0 if serve is None or serve.process.poll() is not None else serve.process.pid

    def start(self) -> None:
        """Start it, and again whenever it ends."""
        self.folder.mkdir()
        self._clock.touch()
        self.turn_clock(0)
        self._keeper = threading.Thread(target=self._keep)
        self._keeper.start()

    def stop(self) -> int:
        """End it for good, with the requests in flight; its status."""
        self._stopping.set()
        with suppress(ProcessLookupError):
            if self.pid:
                os.kill(self.pid, signal.SIGTERM)
        assert self._keeper is not None
        self._keeper.join(READY_WITHIN_S)
        assert self._serve is not None
        return self._serve.process.wait(1)

    def turn_clock(self, seconds: int) -> None:
        """Put its wall clock off by so much."""
        # In place: it is mapped by everything that runs there.
        with self._clock.open("r+b") as file:
            file.write(struct.pack("<q", seconds))

    def stubs(self) -> list[int]:
        """The process ids of its living stubs."""
        return [stub.process.pid for stub in list_stubs(self.triton)] if self.triton else []

    def inside(self, path: Path) -> Path | None:
        """How its own mounts are reached from here; None while it does not run."""
        return Path(f"/proc/{self.pid}/root{path}") if self.pid else None

    @property
    def _clock(self) -> Path:
        return self.folder.with_suffix(".clock")

    def _keep(self) -> None:
        while not self._stopping.is_set():
            self._run()
            self._stopping.wait(PAUSE_S)

    def _run(self) -> None:
        ports = self.ports
        mounts = OWN_MOUNTS.format(shm=SHARED_MEMORY_MIB, disk=DISK_MIB, folder=self.folder)
        clock = {"LD_PRELOAD": str(self.library), "TRITIUM_TEST_CLOCK": str(self._clock)}
        self._serve = serve = Serve(
            self.repository,
            *("--grpc-port", str(ports.grpc), "--metrics-port", str(ports.metrics)),
            *("--ready-port", str(ports.ready), "--http-port", str(ports.http)),
            *("--drain-delay", "1.5", "--log", str(self.folder / "triton.log")),
            through=["unshare", "--mount", "sh", "-ec", mounts, "sh"],
            TMPDIR=str(self.folder),
            **(clock if self.library else {}),
        )
        self.starts += 1
        try:
            self.triton = serve.until("started")["pid"]
            serve.until("ready")
            self.ready = True
            serve.end()
        except (AssertionError, ValueError):
            pass  # it ended before it was ready: there was no room, or somebody killed it
        finally:
            self.ready, self.triton = False, 0
            serve.process.kill()
            serve.process.wait()
            assert serve.process.stdout is not None
            serve.process.stdout.close()


@dataclass
class World:
    """What is struck, and comes back."""

    servers: list[Server]
    envoy: Envoy | None = None
    envoy_starts: int = 0

    def whole(self) -> bool:
        """Whether every server is ready and Envoy sends it requests."""
        proxy = self.envoy
        if proxy is None or not all(one.ready for one in self.servers):
            return False
        with suppress(OSError):
            return proxy.healthy() == {one.ports.grpc for one in self.servers}
        return False


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Start everything, and stop it again."""
    repository = folder / "repository"
    repository.mkdir()
    publish(repository)
    library = _clock_library(folder)
    made = World([Server(repository, folder / f"disk{number}", library) for number in range(3)])
    stopping = threading.Event()
    endpoints = [Endpoint("127.0.0.1", one.ports.grpc, one.ports.ready) for one in made.servers]
    settings = loopback(endpoints, folder / "envoy")
    (folder / "envoy").mkdir()

    def keep_envoy() -> None:
        while not stopping.is_set():
            with suppress(AssertionError), envoy(folder / "envoy", settings) as running:
                made.envoy = running
                made.envoy_starts += 1
                while running.process.poll() is None and not stopping.wait(0.05):
                    pass
            made.envoy = None

    with ExitStack() as stack:
        for one in made.servers:
            one.start()
            stack.callback(one.stop)
        keeper = threading.Thread(target=keep_envoy)
        keeper.start()
        stack.callback(keeper.join)
        stack.callback(stopping.set)
        assert wait_until(made.whole, READY_WITHIN_S), [one.starts for one in made.servers]
        yield made


def _clock_library(folder: Path) -> Path | None:
    if COMPILER is None:
        return None
    library = folder / "clock.so"
    flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([COMPILER, *flags, "-o", str(library), str(CLOCK)], check=True)
    return library
