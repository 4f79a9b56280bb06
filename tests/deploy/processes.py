"""`tritium serve` in a process of its own, for tests that send it signals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

PROGRAM = """
import typer
from tritium_deploy.commands import register
app = typer.Typer()
app.callback()(lambda: None)
register(app)
app()
"""


class Serve:
    """One `tritium serve --json` process."""

    def __init__(
        self,
        repository: Path,
        *arguments: str,
        program: str = PROGRAM,
        through: Sequence[str] = (),
        **environment: str,
    ) -> None:
        """Start it; `through` are words of a command that becomes it."""
        self.process = subprocess.Popen(
            [
                *through,
                sys.executable,
                "-c",
                program,
                "serve",
                "--json",
                "--repository",
                str(repository),
                *arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "TMPDIR": str(repository.parent),
            }
            | environment,
        )
        self.events: list[dict[str, Any]] = []

    def until(self, name: str) -> dict[str, Any]:
        """Read events until one of this name; fail when the output ends first."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == name:
                return self.events[-1]
        raise AssertionError(f"no event {name!r}, but {self.events}")

    def end(self) -> int:
        """Read the rest and wait."""
        assert self.process.stdout is not None
        self.events.extend(json.loads(line) for line in self.process.stdout)
        return self.process.wait(60)

    @property
    def names(self) -> list[str]:
        """The events so far."""
        return [event["event"] for event in self.events]

    def descendants(self) -> list[int]:
        """The guard, tritonserver and its stubs."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child.pid for child in children]
