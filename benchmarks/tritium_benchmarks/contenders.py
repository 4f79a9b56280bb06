"""Who is measured: Tritium, and what a user would run in its place.

with running(CONTENDERS["litserve-onnxruntime"], subject) as server:
    server.url, server.cpu_s()
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from tritium_benchmarks.errors import ContenderError
from tritium_deploy.installation import find_installation
from tritium_deploy.ports import Ports

HOST = "127.0.0.1"
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 40.0
"""PyTriton waits half a minute for its server."""

PYTRITON_MODEL = "pytriton"
"""The Triton model that the PyTriton baseline binds."""
TRITIUM = "tritium"
TWIN = "litserve-tuned"
"""LitServe with Tritium's own servables, in its precision."""
LIMIT = "limit"


@dataclass(frozen=True)
class Contender:
    """One way to serve a bundle."""

    name: str
    title: str
    about: str
    """How it is set up, in a sentence."""
    asked_by: Literal["sdk", "http", "pytriton"]
    program: str | None = None
    """Module under `baselines`; None for Tritium itself."""


CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in (
        Contender(TRITIUM, "Tritium", "the live release, as `tritium serve` starts it", "sdk"),
        Contender(
            "fastapi-pytorch",
            "FastAPI + PyTorch",
            "one request at a time, all cores: a typical first service",
            "http",
            "fastapi_pytorch",
        ),
        Contender(
            "fastapi-onnxruntime",
            "FastAPI + ONNX Runtime",
            "one request at a time, all cores",
            "http",
            "fastapi_onnxruntime",
        ),
        Contender(
            "litserve-pytorch",
            "LitServe + PyTorch",
            "batches of up to 8, a worker with one thread for each core",
            "http",
            "litserve_pytorch",
        ),
        Contender(
            "litserve-onnxruntime",
            "LitServe + ONNX Runtime",
            "batches of up to 8, a worker with one thread for each core",
            "http",
            "litserve_onnxruntime",
        ),
        Contender(
            TWIN,
            "LitServe, tuned twin",
            "as above, with Tritium's decoder, engine, precision and packing",
            "http",
            "litserve_tuned",
        ),
        Contender(
            "pytriton",
            "PyTriton + ONNX Runtime",
            "`@batch`, batches of up to 8, an instance with one thread for each core",
            "pytriton",
            "pytriton_batch",
        ),
    )
}
BASELINES = tuple(name for name in CONTENDERS if name != TRITIUM)


@dataclass(frozen=True)
class Subject:
    """What every contender serves: the same weights."""

    app: str
    repository: Path
    """With the app's live release, for Tritium."""
    bundle: Path
    """The same app, for the baselines."""
    graphs: Path
    """Its ONNX graphs."""
    bf16: bool = False
    """Whether Tritium's release is in bfloat16."""


@dataclass(frozen=True)
class Running:
    """A contender that answers."""

    contender: Contender
    url: str
    """host:port."""
    step_metrics_url: str | None = None
    """Where the steps of `encoders` are counted, if that is known."""
    process: psutil.Process | None = field(default=None, repr=False)
    """None for a server that somebody else started."""

    def cpu_s(self) -> float:
        """Seconds of processor time that it has used so far, all its processes together."""
        total = 0.0
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def sleep(self) -> None:
        """Stop its processes (SIGSTOP) while others are measured.

        LitServe's workers poll, and would be busy in everybody's turns. Tritium has nothing to do
        when nobody asks, and watches itself: it stays awake.
        """
        if self.contender.name != TRITIUM:
            for process in self._processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.suspend()

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let it run for the length of the block."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        try:
            yield
        finally:
            self.sleep()

    def _processes(self) -> list[psutil.Process]:
        if self.process is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self.process, *self.process.children(recursive=True)]
        return []


@contextmanager
def running(contender: Contender, subject: Subject) -> Iterator[Running]:
    """Start a contender on free ports, wait until it answers, and stop it at the end.

    Raises:
        ContenderError: it ended before it was ready, or was not ready in time.
    """
    ports = Ports.free()
    command, ready = _command(contender, subject, ports)
    with tempfile.TemporaryDirectory(prefix=f"tritium-bench-{contender.name}-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=_environment(contender),
                cwd=folder,  # some leave files where they are started
                start_new_session=True,
            )
        try:
            _wait(contender, process, ready, log)
            steps = f"http://{HOST}:{ports.ready}/metrics" if contender.name == TRITIUM else None
            url = f"{HOST}:{ports.grpc}"
            yield Running(contender, url, steps, psutil.Process(process.pid))
        finally:
            _stop(process)


def _command(
    contender: Contender, subject: Subject, ports: Ports
) -> tuple[list[str], Callable[[], bool]]:
    """How it is started, and how to see that it is ready."""
    if contender.program is None:
        main = "from tritium_client.cli import main; main()"
        command = [
            sys.executable, "-c", main, "serve", "--json", "--app", subject.app,
            "--repository", str(subject.repository.absolute()),
            "--grpc-port", str(ports.grpc), "--metrics-port", str(ports.metrics),
            "--ready-port", str(ports.ready), "--http-port", str(ports.http),
        ]  # fmt: skip
        return command, lambda: _answers(f"http://{HOST}:{ports.ready}/ready")
    command = [
        sys.executable, "-m", f"tritium_benchmarks.baselines.{contender.program}",
        str(subject.bundle.absolute()), "--graphs", str(subject.graphs.absolute()),
        "--port", str(ports.grpc),
    ]  # fmt: skip
    if subject.bf16 and contender.name == TWIN:
        command.append("--bf16")
    if contender.asked_by == "pytriton":
        return command, lambda: _model_is_ready(f"{HOST}:{ports.grpc}")
    return command, lambda: _answers(f"http://{HOST}:{ports.grpc}/health")


def _environment(contender: Contender) -> dict[str, str]:
    environment = dict(os.environ)
    if contender.asked_by == "pytriton":
        # Its Python backend looks for this interpreter's libpython where the loader looks.
        environment["LD_LIBRARY_PATH"] = find_installation().environment()["LD_LIBRARY_PATH"]
    return environment


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 # nosec B310 # ours
        return bool(answer.status == 200)
    return False


def _model_is_ready(url: str) -> bool:
    from tritonclient.grpc import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    with contextlib.suppress(InferenceServerException, OSError):
        host, _, port = url.partition(":")
        socket.create_connection((host, int(port)), timeout=1).close()
        with InferenceServerClient(url) as client:
            return bool(client.is_model_ready(PYTRITON_MODEL, client_timeout=2))
    return False


def _wait(
    contender: Contender, process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path
) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if process.poll() is not None:
            raise ContenderError(f"{contender.title} did not start: {_last_words(log)}")
        if time.monotonic() > until:
            raise ContenderError(
                f"{contender.title} was not ready within {START_TIMEOUT_S:.0f} s: "
                f"{_last_words(log)}"
            )
        time.sleep(0.1)


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if not lines:
        return "it said nothing"
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(lines[-1])["text"])
    return lines[-1].strip()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the program to end; then end whatever it left behind in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGCONT)  # asleep, it would not hear
        process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def chosen(names: Sequence[str]) -> list[Contender]:
    """Contenders by name; `all` for every one.

    Raises:
        ContenderError: naming the one that is not known, and those that are.
    """
    if "all" in names:
        return [CONTENDERS[name] for name in BASELINES]
    for name in names:
        if name not in BASELINES:
            raise ContenderError(
                f"no baseline is called {name!r}; there are: {', '.join(BASELINES)}"
            )
    return [CONTENDERS[name] for name in names]
