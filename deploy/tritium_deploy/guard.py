"""Stand between `tritium serve` and tritonserver, so that nothing outlives either of them.

Run as a script of its own (stdlib only). tritonserver ends with its guard, the guard ends
tritonserver when `tritium serve` is gone (its end of our stdin closes, whatever killed it), and the
stubs of a killed tritonserver, which hang for ever now and then, become the guard's children.

Usage: guard.py FOLDER PROGRAM ARGUMENT...
FOLDER is the server's run folder; its name begins the names of its regions in /dev/shm.
Writes `started PID` and, after everything is gone, `ended STATUS` to stdout; the program's output
goes to our stderr.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 # nosec B108 # where POSIX shared memory lives
PATIENCE_S = 10.0


def main() -> None:
    """Run the program, and clean up after it."""
    folder, command = Path(sys.argv[1]), sys.argv[2:]
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        # Before the first thread: Python code after a fork needs a process of one thread.
        program = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509
        )
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"error: {command[0]} cannot be executed: {error}")
    _say(f"started {program.pid}")
    left = threading.Event()
    threading.Thread(target=_end_with_parent, args=(program, left), daemon=True).start()
    status = program.wait()
    _end_orphans()
    for region in SHARED_MEMORY.glob(f"{folder.name}_*"):
        region.unlink(missing_ok=True)
    if left.is_set():
        # Nobody else is there to do it. The log stays: somebody may want to know.
        shutil.rmtree(folder / "backends", ignore_errors=True)
        for name in ("lock", "client-roots.pem"):
            (folder / name).unlink(missing_ok=True)
    _say(f"ended {status}")


def _end_with_parent(program: subprocess.Popen[bytes], left: threading.Event) -> None:
    # Not through sys.stdin: an interpreter that ends waits a second for whoever reads that.
    while os.read(0, 4096):
        pass
    left.set()
    # SIGKILL, not SIGTERM: tritonserver ignores SIGTERM for as long as a model load hangs.
    program.kill()


def _end_orphans() -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for pid in _children():
            os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def _children() -> list[int]:
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold anything; the parent's id is the second word after.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        if parent == os.getpid():
            children.append(int(stat.parent.name))
    return children


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value) != 0:
        sys.exit(f"error: prctl({option}) failed: {os.strerror(ctypes.get_errno())}")


def _say(words: str) -> None:
    try:
        sys.stdout.write(f"{words}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # `tritium serve` is gone; what is left to do is done all the same.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
