"""The limit: the same work in a bare loop, with no server at all.

    python -m tritium_benchmarks.baselines.in_process bundles/openmoji

One worker for each core, pinned to it, one thread each; nothing travels, nothing queues, every
batch is full. Both runtimes and several batch sizes are tried, and the best counts. What a server
reaches of this is its own cost.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path

from tritium_benchmarks.baselines.engine_model import RUNTIMES, EngineModel, Runtime
from tritium_benchmarks.inputs import Request, make_requests
from tritium_benchmarks.results import to_json
from tritium_benchmarks.workload import load_workload
from tritium_builders.bundle import Bundle
from tritium_builders.graphs import write_graphs

BATCHES = (1, 4, 8, 16)
WARM_UP_S = 1.0
SEARCH_S = 1.5
START_TIMEOUT_S = 120.0
"""For all workers to have loaded the model; one that failed keeps the others no longer."""


@dataclass(frozen=True)
class Limit:
    """What one way of running the model reaches, all workers together."""

    runtime: Runtime
    batch: int
    workers: int
    per_second: float
    """Items, median over the repeats."""
    repeats: tuple[float, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every way, and print the best first."""
    parser = argparse.ArgumentParser(
        prog="python -m tritium_benchmarks.baselines.in_process",
        description="Measure what the model reaches with no server.",
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--workload", default="saturate")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    limits = measure(options.bundle, options.workload, options.seconds, options.repeats)
    if options.json:
        sys.stdout.write(to_json([asdict(limit) for limit in limits]))
        return
    for limit in limits:
        spread = max(limit.repeats) - min(limit.repeats)
        sys.stdout.write(
            f"{limit.runtime:12} batch {limit.batch:3}  {limit.per_second:7.1f} items/s"
            f"  (spread {spread:.1f}, {limit.workers} workers)\n"
        )


def measure(bundle: Path, workload: str, seconds: float, repeats: int) -> list[Limit]:
    """Measure every runtime and batch size, in turns.

    Args:
        bundle: The app.
        workload: Which requests.
        seconds: Of each repeat, after a second of warming up.
        repeats: How often each way has its turn.

    Returns:
        The ways, best first.
    """
    ways = [(runtime, batch) for runtime in RUNTIMES for batch in BATCHES]
    found: dict[tuple[Runtime, int], list[float]] = {way: [] for way in ways}
    loaded = load_workload(workload)
    requests = tuple(make_requests(loaded, loaded.mix.distinct))
    with tempfile.TemporaryDirectory(prefix="tritium-limit-") as folder:
        write_graphs(Bundle.load(bundle), Path(folder))
        for _ in range(repeats):
            for runtime, batch in ways:
                job = Job(bundle, Path(folder), requests, runtime, batch)
                found[runtime, batch].append(items_per_second(job, seconds))
    limits = [
        Limit(runtime, batch, _cores(), statistics.median(rates), tuple(rates))
        for (runtime, batch), rates in found.items()
    ]
    return sorted(limits, key=lambda limit: -limit.per_second)


@dataclass(frozen=True)
class Job:
    """What each worker does: one way of running the model."""

    bundle: Path
    graphs: Path
    requests: tuple[Request, ...]
    runtime: Runtime
    batch: int
    bf16: bool = False
    """Whether OpenVINO computes the encoders in bfloat16."""

    def __str__(self) -> str:
        return f"{self.runtime}{' bf16' if self.bf16 else ''}, batch {self.batch}"


def best_way(
    bundle: Path,
    graphs: Path,
    requests: tuple[Request, ...],
    seconds: float = SEARCH_S,
    *,
    bf16: bool = False,
) -> Job:
    """Look for the fastest runtime and batch size, with a short try of each.

    Args:
        bundle: The app.
        graphs: Folder with its ONNX graphs.
        requests: What is answered, all with the same modalities.
        seconds: Of each try.
        bf16: Whether the encoders may be in bfloat16, which is OpenVINO's.
    """
    runtimes: tuple[Runtime, ...] = ("openvino",) if bf16 else RUNTIMES
    jobs = [
        Job(bundle, graphs, requests, runtime, batch, bf16)
        for runtime in runtimes
        for batch in BATCHES
    ]
    return max(jobs, key=lambda job: items_per_second(job, seconds))


class _Start:
    """Where the workers of a process pool wait for each other."""

    barrier: Barrier


def _remember(barrier: Barrier) -> None:
    _Start.barrier = barrier


def items_per_second(job: Job, seconds: float) -> float:
    """What all workers together answer, each pinned to its core.

    Args:
        job: The way.
        seconds: How long, after a second of warming up.

    Raises:
        Exception: what a worker failed with.
    """
    cores = sorted(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(cores), timeout=START_TIMEOUT_S)
    with ProcessPoolExecutor(len(cores), context, _remember, (barrier,)) as pool:
        rates = [pool.submit(_work, job, core, seconds) for core in cores]
        return sum(rate.result() for rate in rates)


def _work(job: Job, core: int, seconds: float) -> float:
    os.sched_setaffinity(0, {core})
    model = EngineModel(
        job.bundle, job.graphs, job.runtime, threads=1, batch=job.batch, bf16=job.bf16
    )
    _loop(model, job.requests, job.batch, WARM_UP_S)
    _Start.barrier.wait()
    return _loop(model, job.requests, job.batch, seconds)


def _loop(model: EngineModel, requests: Sequence[Request], batch: int, seconds: float) -> float:
    done = 0
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        model([requests[(done + index) % len(requests)] for index in range(batch)])
        done += batch
    return done / elapsed


def _cores() -> int:
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    main()
