"""The `tritium` command as a shell runs it: to its end, beside the test, or on a terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
    with process:
        try:
            yield Terminal(process, screen)
        finally:
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
