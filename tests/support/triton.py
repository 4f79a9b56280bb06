"""Start the real tritonserver on a hand-made repository, for tests that need nothing else.

Small on purpose: `tritium_deploy` is what users serve with; this keeps the client's tests
independent of it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 90.0


@dataclass(frozen=True)
class TritonServer:
    """A running server; every model of its repository is loaded, model control is explicit."""

    process: subprocess.Popen[bytes]
    url: str
    """host:port of gRPC."""
    repository: Path
    log: Path

    def load(self, model: str) -> None:
        """Load a model, or load it again after its files changed."""
        from tritonclient.grpc import service_pb2

        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        self._control("RepositoryModelLoad", request)

    def unload(self, model: str) -> None:
        """Unload a model; returns when the server no longer offers it."""
        from tritonclient.grpc import service_pb2

        request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
        self._control("RepositoryModelUnload", request)
        ready = service_pb2.ModelReadyRequest(name=model)
        while self._control("ModelReady", ready).ready:
            time.sleep(0.02)

    def stub_pids(self, model: str) -> list[int]:
        """The processes that run a Python model."""
        import psutil

        pids = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile; a zombie counts as ended
                if f"{model}_0_0" in child.cmdline():
                    pids.append(child.pid)
        return pids

    def answered(self, model: str) -> int:
        """How many requests a model has answered."""
        from tritonclient.grpc import service_pb2

        request = service_pb2.ModelStatisticsRequest(name=model)
        (found,) = self._control("ModelStatistics", request).model_stats
        count: int = found.inference_stats.success.count
        return count

    def _control(self, method: str, request: Any) -> Any:
        import grpc
        from tritonclient.grpc import service_pb2_grpc

        with grpc.insecure_channel(self.url) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            return getattr(stub, method)(request, timeout=START_TIMEOUT_S)


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def triton_server(
    repository: Path,
    *,
    port: int | None = None,
    host: str = "127.0.0.1",
    arguments: Sequence[str] = (),
    credentials: Any = None,
) -> Iterator[TritonServer]:
    """Serve `repository` until the block ends; always stopped, /dev/shm left clean.

    Args:
        repository: What to serve.
        port: Of gRPC; None for a free one.
        host: Of gRPC; a loopback address.
        arguments: More of tritonserver's arguments.
        credentials: gRPC channel credentials, where the arguments ask for TLS.
    """
    port, prefix = port or free_port(), f"tritium-test-{uuid.uuid4().hex[:8]}-"
    with tempfile.TemporaryDirectory(prefix="tritium-triton-") as scratch:
        log = Path(scratch) / "triton.log"
        command, environment = _launch(repository, Path(scratch), f"{host}:{port}", prefix)
        command += arguments
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        try:
            _wait_until_ready(process, host, port, log, credentials)
            yield TritonServer(process, f"{host}:{port}", repository, log)
        finally:
            _stop(process)
            for region in Path("/dev/shm").glob(f"{prefix}*"):
                region.unlink(missing_ok=True)


def _launch(
    repository: Path, scratch: Path, url: str, prefix: str
) -> tuple[list[str], dict[str, str]]:
    spec = find_spec("pytriton")
    assert spec is not None, "pip install 'tritium[serve]'"
    assert spec.origin is not None
    package = Path(spec.origin).parent
    triton = package / "tritonserver"
    backends = scratch / "backends"
    shutil.copytree(triton / "backends", backends)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = triton / "python_backend_stubs" / python / "triton_python_backend_stub"
    shutil.copy2(stub, backends / "python")
    libraries = [sysconfig.get_config_var("LIBDIR"), str(package.parent / "nvidia_pytriton.libs")]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(libraries),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [
        *("setpriv", "--pdeathsig", "TERM"),  # a test run that is killed leaves no server behind
        str(triton / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        f"--cache-directory={triton / 'caches'}",
        "--model-control-mode=explicit",
        "--load-model=*",
        # Our configs are complete; completing them would start each stub twice.
        "--disable-auto-complete-config",
        "--exit-timeout-secs=1",
        f"--grpc-address={url.partition(':')[0]}",
        f"--grpc-port={url.partition(':')[2]}",
        "--allow-http=false",
        "--allow-metrics=false",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
    ]
    return command, environment


def _wait_until_ready(
    process: subprocess.Popen[bytes], host: str, port: int, log: Path, credentials: Any
) -> None:
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    deadline = time.monotonic() + START_TIMEOUT_S
    # Certificates of the tests are for both; a name is what users mostly write.
    url = f"localhost:{port}" if host == "127.0.0.1" else f"{host}:{port}"
    while process.poll() is None and time.monotonic() < deadline:
        # A channel that was refused once waits a second before it tries again.
        if not _listens(host, port):
            time.sleep(0.02)
            continue
        with (
            grpc.insecure_channel(url)
            if credentials is None
            else grpc.secure_channel(url, credentials)
        ) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            with suppress(grpc.RpcError):
                if stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=5).ready:
                    return
        time.sleep(0.1)
    raise AssertionError(f"tritonserver did not start:\n{log.read_text(errors='replace')[-4000:]}")


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server with its Python stubs; asked politely, it would take two to four seconds."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
