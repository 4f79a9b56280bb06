"""A process as a container has it: number 1 of its own processes, user 1000 without any rights,
everything read-only but a tmpfs for /tmp and one for /dev/shm. What is lacking is an image."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

ENTER = """
set -eu
repository=$1 models=$2 locked=$3 base=$4; shift 4
mount --make-rprivate /
mount -t proc proc /proc
mount --bind "$repository" "$models"
mount -t tmpfs -o mode=1777,size=512m tmpfs /tmp
mount -t tmpfs -o mode=1777,size=256m tmpfs /dev/shm
if [ -n "$locked" ]; then  # Python lies in somebody's home, which others may not enter
    mkdir /tmp/python
    mount --bind "$base" /tmp/python
    mount -t tmpfs -o mode=755 tmpfs "$locked"
    mkdir -p "$base"
    mount --move /tmp/python "$base"
    rmdir /tmp/python
fi
findmnt -rno TARGET | grep -vx -e /tmp -e /dev/shm -e "/proc.*" | while read -r place; do
    mount -o remount,bind,ro "$place" 2>/dev/null || true
done
if touch /written "$models/written" 2>/dev/null; then echo "sandbox: not read-only" >&2; exit 9; fi
exec setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs --bounding-set=-all \
    --inh-caps=-all env -i HOME=/tmp "$@"
"""


class Sandbox:
    """Runs commands with a repository at `models`, which they can read.

    Args:
        folder: Made by `open_folder`; holds `repository`.
        python: Whose installation commands need.
    """

    def __init__(self, folder: Path, python: Path) -> None:
        for needed in (Path(__file__), Path(sys.prefix)):
            if needed.is_relative_to("/tmp"):
                pytest.skip(f"{needed} lies in /tmp, which a container has for itself")
        self.models = folder / "models"
        self.models.mkdir()
        base = Path(os.path.realpath(python)).parents[1]
        closed = [one for one in base.parents if not one.stat().st_mode & stat.S_IXOTH]
        places = [folder / "repository", self.models, closed[0] if closed else "", base]
        self._enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        self._enter += ["bash", "-c", ENTER, "sandbox", *map(str, places)]

    def start(self, *words: str, output: Path, **environment: str) -> subprocess.Popen[bytes]:
        """Start a command."""
        settings = [f"{name}={value}" for name, value in environment.items()]
        with output.open("wb") as file:
            return subprocess.Popen([*self._enter, *settings, *words], stdout=file, stderr=file)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter. pytest closes its own ones, again and again."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    with tempfile.TemporaryDirectory(prefix="tritium-test-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def first_process(unshare: subprocess.Popen[bytes]) -> psutil.Process:
    """The sandbox's process number 1."""
    (first,) = psutil.Process(unshare.pid).children()
    return first


def stop(unshare: subprocess.Popen[bytes], timeout_s: float = 60) -> int:
    """Stop a sandbox as Docker and Kubernetes do, and return the exit status of its process 1."""
    first_process(unshare).send_signal(signal.SIGTERM)
    return unshare.wait(timeout_s)


def python_path() -> str:
    """Where this checkout's packages are found."""
    return os.pathsep.join(path for path in sys.path if path)
