"""Prometheus itself, for tests; tools/install-prometheus.sh brings it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.triton import free_port

START_TIMEOUT_S = 30.0


def program(name: str) -> Path:
    """`prometheus` or `promtool`; the test is skipped where there is none."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    kept = Path(cache) / "tritium" / "prometheus" / "usr" / "bin"
    found = shutil.which(name) or shutil.which(name, path=str(kept))
    if found is None:
        pytest.skip(f"there is no {name}: run tools/install-prometheus.sh")
    return Path(found)


@dataclass(frozen=True)
class Prometheus:
    """A running one."""

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        """The `data` of an API call.

        Raises:
            AssertionError: it failed; with Prometheus' own words.
        """
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expression: str) -> list[dict[str, str]]:
        """The labels of every series that an expression has now."""
        data = self.get("query", query=expression)
        return [one["metric"] for one in data["result"]]

    def value(self, expression: str) -> float:
        """The value of an expression that has one series."""
        (one,) = self.get("query", query=expression)["result"]
        return float(one["value"][1])

    def rules(self) -> list[dict[str, Any]]:
        """Every rule, with its health and its last error."""
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]


@contextmanager
def prometheus(config: dict[str, Any], folder: Path) -> Iterator[Prometheus]:
    """Run Prometheus until the block ends."""
    binary, port = program("prometheus"), free_port()
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [
        *("setpriv", "--pdeathsig", "TERM"),  # a test run that is killed leaves nothing behind
        str(binary),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait(f"http://127.0.0.1:{port}/-/ready", process, folder / "log")
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"prometheus did not start:\n{log.read_text()}")
