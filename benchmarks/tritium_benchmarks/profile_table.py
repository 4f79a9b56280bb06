"""Where processor time goes while an app is busy: `make profile` writes profile.md.

    python -m tritium_benchmarks.profile_table openmoji benchmarks/results

Every process's own time, for each request, as the kernel counts it; and within `encoders` what its
steps took. What is left over beside the steps is what serving costs.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from tritium_benchmarks.contenders import CONTENDERS, TRITIUM, Running
from tritium_benchmarks.driver import Load, closed_loop, hold
from tritium_benchmarks.inputs import Request, make_requests
from tritium_benchmarks.manifest import make_manifest
from tritium_benchmarks.planning import live_release_of
from tritium_benchmarks.report.tables import Table
from tritium_benchmarks.results import write_results
from tritium_benchmarks.steps import Sums, read_sums, step_models
from tritium_benchmarks.workload import load_workload
from tritium_builders.release import Release
from tritium_client.contract import role_of
from tritium_deploy import Ports, Server, serve

IN_FLIGHT = 16
GENERATOR = "whoever asks, and the watcher"


@dataclass(frozen=True)
class Share:
    """What one process, or one step within it, took for each request."""

    what: str
    cpu_ms: float
    share: float
    """Of the time that all cores together had for a request."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write profile.json and profile.md, or what `--name` says."""
    parser = argparse.ArgumentParser(description="Where processor time goes.")
    parser.add_argument("app")
    parser.add_argument("results", type=Path)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--name", default="profile", help="of the files, without ending")
    given = parser.parse_args(arguments)
    release = live_release_of(given.repository, given.app)
    requests = make_requests(load_workload("saturate"), 64)
    with serve(given.repository, ports=Ports.free(), apps=[given.app]) as server:
        _load(server, release, requests, given.seconds / 5)
        shares, per_second = measure(server, release, requests, given.seconds)
    document = {
        "manifest": make_manifest(given.repository, given.app),
        "answers_per_second": round(per_second, 1),
        "in_flight": IN_FLIGHT,
        "shares": [asdict(share) for share in shares],
    }
    write_results(given.results, given.name, document, table(shares).to_markdown())


def table(shares: Sequence[Share]) -> Table:
    """All shares, the processes first and their steps below them."""
    rows = tuple((one.what, f"{one.cpu_ms:.2f}", f"{one.share:.0%}") for one in shares)
    return Table("Processor time", ("process", "ms for each request", "of all cores"), rows)


def measure(
    server: Server, release: Release, requests: Sequence[Request], seconds: float
) -> tuple[list[Share], float]:
    """Hold a load, and see who worked meanwhile.

    Returns:
        Who took what, and answers per second.
    """
    processes = {pid: psutil.Process(pid) for pid in (*server.pids, os.getpid())}
    models = step_models(release)
    steps_before = read_sums(server.grpc_url, models, server.step_metrics_url)
    before = {pid: _cpu_s(process) for pid, process in processes.items()}
    load = _load(server, release, requests, seconds)
    after = {pid: _cpu_s(process) for pid, process in processes.items()}
    steps_after = read_sums(server.grpc_url, models, server.step_metrics_url)
    # The load warmed up, and was waited for at its end: its requests are those that were counted.
    whole = steps_after["whole"].requests - steps_before["whole"].requests
    cores_ms = 1000 * len(os.sched_getaffinity(0)) / load.per_second
    spent: dict[str, float] = {}
    for pid, process in processes.items():
        name = GENERATOR if pid == os.getpid() else _name(process)
        spent[name] = spent.get(name, 0.0) + 1000 * (after[pid] - before[pid]) / whole
    steps = {
        step: (sums.infer - steps_before.get(step, Sums()).infer) / 1e6 / whole
        for step, sums in steps_after.items()
        if sums.busy
    }
    shares = []
    for name, cpu_ms in sorted(spent.items(), key=lambda item: -item[1]):
        shares.append(Share(name, round(cpu_ms, 3), cpu_ms / cores_ms))
        if name == "encoders":
            shares += [
                Share(f"- {step}", round(ms, 3), ms / cores_ms) for step, ms in steps.items()
            ]
    idle = max(cores_ms - sum(spent.values()), 0.0)
    return [*shares, Share("idle, and everything else", round(idle, 3), idle / cores_ms)], (
        load.per_second
    )


def _load(server: Server, release: Release, requests: Sequence[Request], seconds: float) -> Load:
    return hold(
        Running(CONTENDERS[TRITIUM], server.grpc_url), release.app, release.labels, requests,
        lambda caller: closed_loop(caller, in_flight=IN_FLIGHT, seconds=seconds),
    )  # fmt: skip


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _name(process: psutil.Process) -> str:
    """A stub's role, else the program's name."""
    return role_of(" ".join(process.cmdline())) or process.name()


if __name__ == "__main__":
    main()
