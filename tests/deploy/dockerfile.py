"""Do what a Dockerfile says, in a folder in place of a container: WORKDIR, COPY and RUN."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

MOVED = ("/opt/", "/src", "/tritium.cdx.json")
"""Paths of the container that lie in the folder instead."""
RUN_TIMEOUT_S = 900.0


def stages(text: str) -> dict[str, list[str]]:
    """Stage -> its instructions, each on one line."""
    whole = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    found: dict[str, list[str]] = {}
    for line in filter(None, whole.splitlines()):
        if line.startswith("FROM "):
            found[line.rpartition(" AS ")[2]] = instructions = []
        elif found:
            instructions.append(line)
    return found


class Replay:
    """One container's file system, as far as the instructions need one.

    Args:
        folder: Where it lies.
        context: What Docker would be given: paths of the checkout.
        root: The checkout.
    """

    def __init__(self, folder: Path, root: Path, context: list[str]) -> None:
        self.folder = folder
        self._context = folder / "context"
        self._cwd = folder
        for path in context:
            source, target = root / path, self._context / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, target)

    def path(self, inside: str) -> Path:
        """Where a path of the container lies."""
        return Path(self._moved(inside))

    def do(self, instructions: list[str]) -> None:
        """Carry instructions out, one after the other."""
        for line in instructions:
            name, _, rest = line.partition(" ")
            if name == "WORKDIR":
                self._cwd = self.path(rest)
                self._cwd.mkdir(parents=True, exist_ok=True)
            elif name == "COPY":
                *sources, target = rest.split()
                self._copy(sources, target)
            elif name == "RUN":
                self._run(rest)
            else:
                raise AssertionError(f"a stage of this kind has no {name}")

    def _copy(self, sources: list[str], target: str) -> None:
        for source in sources:
            found, place = self._context / source, self._cwd / target
            if found.is_dir():
                shutil.copytree(found, place, dirs_exist_ok=True)
            else:
                shutil.copy2(found, place)

    def _run(self, command: str) -> None:
        # Of what this process is told, a container knows nothing; pip's settings are the machine's.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
        }
        done = subprocess.run(
            ["bash", "-c", self._moved(command)],
            cwd=self._cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"

    def _moved(self, text: str) -> str:
        for path in MOVED:
            text = re.sub(rf"(?<![\w/.]){re.escape(path)}", f"{self.folder}{path}", text)
        return text
