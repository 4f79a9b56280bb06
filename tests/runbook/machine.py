"""A machine of one's own, on which the runbook is followed to the letter.

Its own network (so that the ports of the page are free), its own processes (so that `pgrep` finds
no others), its own /srv and /dev/shm (so that they can be filled): Linux namespaces, and one shell
that goes through all chapters as a person's terminal does.
"""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = ("bash", "curl", "openssl", "pgrep", "unshare")
HOSTS = "127.0.0.1 localhost models-1\n127.0.0.2 models-2\n127.0.0.3 models-3\n"
DISK_MIB = 48
SHARED_MEMORY_MIB = 160
TIMEOUT_S = 60.0
ENTER = """
set -eu
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o size={disk}m tmpfs /srv
mount -t tmpfs -o size={shm}m tmpfs /dev/shm
mkdir -p /srv/tritium /srv/home
mount --bind {hosts} /etc/hosts
{python} -c 'import fcntl, socket, struct
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    # SIOCSIFFLAGS with IFF_UP, linux/sockios.h: what `ip link set lo up` does.
    fcntl.ioctl(one, 0x8914, struct.pack("16sh14x", b"lo", 1))'
exec env -i HOME=/srv/home LANG=C.UTF-8 PATH={path} PYTHONPATH={packages} COLUMNS=120 bash --norc
"""


@dataclass(frozen=True)
class Answer:
    """What one block of commands printed, both streams, and the status of the last one."""

    text: str
    status: int


class Machine:
    """A shell on a machine of its own; everything on it ends with `close`.

    Args:
        folder: For the files that make it; it is empty.
    """

    def __init__(self, folder: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root may make a machine of namespaces")
        if missing := [name for name in NEEDED if shutil.which(name) is None]:
            pytest.skip(f"the runbook's commands need {', '.join(missing)}")
        (folder / "hosts").write_text(HOSTS)
        script = ENTER.format(
            disk=DISK_MIB,
            shm=SHARED_MEMORY_MIB,
            hosts=folder / "hosts",
            python=sys.executable,
            path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            packages=os.pathsep.join(path for path in sys.path if path),
        )
        command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
        self._shell = subprocess.Popen(
            [*command, "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._asked = 0

    def run(self, code: str, timeout_s: float = TIMEOUT_S) -> Answer:
        """Type commands, and read what they print until the last one has ended.

        Variables, the folder and what runs in the background stay for the next commands.

        Raises:
            AssertionError: they did not end in time.
        """
        self._asked += 1
        mark = f"--- end of block {self._asked}: "
        assert self._shell.stdin is not None
        # A command must not read what is typed after it.
        self._shell.stdin.write(
            f"{{ {code.rstrip()}\n}} </dev/null\nSTATUS=$?; echo; echo '{mark}'$STATUS\n"
        )
        self._shell.stdin.flush()
        lines: list[str] = []
        while True:
            try:
                line = self._lines.get(timeout=timeout_s)
            except queue.Empty:
                raise AssertionError(f"{code}\nhas not ended:\n{''.join(lines)}") from None
            assert line is not None, f"{code}\nended the shell:\n{''.join(lines)}"
            if line.startswith(mark):
                return Answer("".join(lines).removesuffix("\n"), int(line.removeprefix(mark)))
            lines.append(line)

    def path(self, inside: str) -> Path:
        """How a file of it is reached from here."""
        (child,) = (
            Path(f"/proc/{self._shell.pid}/task/{self._shell.pid}/children").read_text().split()
        )
        return Path(f"/proc/{child}/root{inside}")

    def close(self) -> None:
        """End everything that runs there."""
        self._shell.kill()
        self._shell.wait()
        self._reader.join()
        for stream in (self._shell.stdin, self._shell.stdout):
            assert stream is not None
            stream.close()

    def _read(self) -> None:
        assert self._shell.stdout is not None
        for line in self._shell.stdout:
            self._lines.put(line)
        self._lines.put(None)
