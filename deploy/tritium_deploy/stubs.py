"""The stub processes of Triton's Python backend, and their regions in /dev/shm."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 # nosec B108 # where POSIX shared memory lives
STUB = "triton_python_backend_stub"


@dataclass(frozen=True)
class Stub:
    """One stub process: one instance of one Python-backend model."""

    process: psutil.Process
    model: str
    region: str
    """Its file in /dev/shm."""

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self.process.pid)

    @property
    def alive(self) -> bool:
        """Whether it still runs. A dead one stays a zombie, as tritonserver never reaps it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            status = self.process.status()
            return self.process.is_running() and bool(status != psutil.STATUS_ZOMBIE)
        return False

    @property
    def end(self) -> str:
        """How it ended, for instance `SIGKILL` or `exit status 3`; empty where nobody knows.

        Source: `exit_code` in /proc/PID/stat, which a zombie keeps; proc_pid_stat(5).
        """
        with contextlib.suppress(OSError, ValueError):
            words = Path(f"/proc/{self.pid}/stat").read_text("utf-8").split()
            status = int(words[-1])
            if os.WIFSIGNALED(status):
                return signal.Signals(os.WTERMSIG(status)).name
            return f"exit status {os.WEXITSTATUS(status)}"
        return ""

    @property
    def stopped(self) -> bool:
        """Whether somebody stopped it (SIGSTOP, a debugger)."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return bool(self.process.status() == psutil.STATUS_STOPPED)
        return False

    def kill(self) -> None:
        """End it now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.process.kill()


def list_stubs(triton_pid: int) -> list[Stub]:
    """List the living stubs of a tritonserver.

    Source: the stub's command line, python_backend/src/stub_launcher.cc: program, path of
    model.py, name of its shared-memory region, ...
    """
    stubs = []
    try:
        children = psutil.Process(triton_pid).children()
    except psutil.NoSuchProcess:
        return []
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            words = child.cmdline()
            if len(words) > 2 and Path(words[0]).name == STUB:
                stubs.append(Stub(child, model=Path(words[1]).parent.parent.name, region=words[2]))
    return stubs


def kill_stubs(prefix: str) -> None:
    """End the stubs of a server that is gone, known by how their regions' names begin."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            words = process.cmdline()
            if len(words) > 2 and Path(words[0]).name == STUB and words[2].startswith(prefix):
                process.kill()


def remove_region(region: str) -> None:
    """Remove one region that a dead stub left behind."""
    (SHARED_MEMORY / region).unlink(missing_ok=True)


def remove_regions(prefix: str) -> None:
    """Remove every region of a server that has ended."""
    for path in SHARED_MEMORY.glob(f"{prefix}*"):
        path.unlink(missing_ok=True)


def end_stubs(stubs: list[Stub], grace_s: float = 1.0) -> None:
    """Make sure that the stubs of a server that has ended are gone.

    Args:
        stubs: What was seen running.
        grace_s: Seconds in which they may end by themselves.
    """
    processes = [stub.process for stub in stubs if stub.alive]
    _, left = psutil.wait_procs(processes, timeout=grace_s)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)
