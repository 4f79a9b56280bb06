"""The `tritium` command: as a shell runs it (to its end, beside the test, or on a terminal), and
inside this process, where only what it says is of interest."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from tritium_client.cli import main

TRITIUM = str(Path(sys.executable).parent / "tritium")
TIMEOUT_S = 60.0


def tritium(
    *arguments: str, stdin: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command line to its end."""
    return subprocess.run(
        [TRITIUM, *arguments],
        env=_environment(environment),
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",  # a test may send bytes that are no UTF-8
        timeout=TIMEOUT_S,
        check=False,
    )


def tritium_inside(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in this process, which spares the second that a new one takes to start.

    For what ends soon and leaves the process as it was, as wrong usage does.
    """
    out, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="\n") for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(wanted := _environment(environment)):
            patch.delenv(name)
        for name, value in wanted.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["tritium", *arguments])
        with redirect_stdout(out), redirect_stderr(errors), pytest.raises(SystemExit) as end:
            main()
    code = end.value.code if isinstance(end.value.code, int) else 1
    printed, said = (stream.detach().getvalue().decode() for stream in (out, errors))
    return subprocess.CompletedProcess(arguments, code, printed, said)


@contextmanager
def started(
    *arguments: str, timeout_s: float = TIMEOUT_S, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """A command line that runs while the block does, and for `timeout_s` at the most."""
    process = subprocess.Popen(
        [TRITIUM, *arguments],
        env=_environment(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Whoever waits for its output is not kept waiting for ever.
    limit = threading.Timer(timeout_s, process.kill)
    limit.start()
    with process:
        try:
            yield process
        finally:
            limit.cancel()
            process.kill()


class Terminal:
    """A command line on a terminal, and what it has drawn so far."""

    def __init__(self, process: subprocess.Popen[bytes], screen: int) -> None:
        self.process = process
        self.drawn = ""
        self._screen = screen
        self._waited_for = 0

    def wait_for(self, text: str) -> None:
        """Read until the command has drawn this, after what was waited for before."""
        deadline = time.monotonic() + TIMEOUT_S
        while text not in self.drawn[self._waited_for :]:
            assert time.monotonic() < deadline, self.drawn[self._waited_for :]
            assert self._read(), self.drawn[self._waited_for :]
        self._waited_for = self.drawn.index(text, self._waited_for) + len(text)

    def interrupt(self) -> int:
        """Press Ctrl-C, and return the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.end()

    def end(self) -> int:
        """Read what is left, and return the exit code."""
        while self._read():
            pass
        return self.process.wait(TIMEOUT_S)

    def _read(self) -> bool:
        try:
            data = os.read(self._screen, 65536)
        except OSError:  # nobody holds the other end any more
            return False
        self.drawn += data.decode(errors="replace")
        return bool(data)


@contextmanager
def on_terminal(*arguments: str, **environment: str) -> Iterator[Terminal]:
    """Start a command line on a terminal of 100 columns and 40 lines."""
    screen, other_end = pty.openpty()
    termios.tcsetwinsize(other_end, (40, 100))
    clean = _environment({"TERM": "xterm", **environment})
    process = subprocess.Popen(
        [TRITIUM, *arguments], env=clean, stdin=other_end, stdout=other_end, stderr=other_end
    )
    os.close(other_end)
    # Whoever reads the screen is not kept waiting for ever.
    limit = threading.Timer(TIMEOUT_S, process.kill)
    limit.start()
    with process:
        try:
            yield Terminal(process, screen)
        finally:
            limit.cancel()
            process.kill()
            os.close(screen)


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + TIMEOUT_S
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def _environment(added: dict[str, str]) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TRITIUM_")}
    return clean | {"NO_COLOR": "1", "COLUMNS": "100"} | added
