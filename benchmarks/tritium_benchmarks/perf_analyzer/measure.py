"""Run perf_analyzer against an entry point, and read what it measured.

measured = measure("openmoji_classify", "localhost:8001", data, in_flight=16, seconds=10)
measured.per_second, measured.p99_ms
"""

from __future__ import annotations

import csv
import resource
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tritium_benchmarks.errors import PerfAnalyzerError
from tritium_benchmarks.perf_analyzer.install import PerfAnalyzer, find_perf_analyzer

PERCENTILES = ("p50", "p90", "p95", "p99")
WINDOWS = 3
LONGER = (1, 2, 4)
"""Times the length that was asked for, one try after the other."""
ANOTHER_TRY = (
    "Failed to obtain stable measurement",
    "No valid requests recorded within time",
    # Seen once in some hundred short runs, of a model that answered before and after.
    "failed to find the requested model version",
)
"""What perf_analyzer ends with when its windows are too short for it."""
GRACE_S = 60.0
"""Besides the measurement: connecting, warming up, waiting for what is in flight."""


@dataclass(frozen=True)
class Measured:
    """One run of perf_analyzer: one load, held for a while."""

    in_flight: int
    seconds: float
    """How long requests were counted."""
    per_second: float
    """Answered requests."""
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    average_ms: Mapping[str, float]
    """Where the time went, means: `client send`, `network+server`, `queue`, ... as Triton and
    perf_analyzer tell it."""
    generator_cpu: float
    """Cores that perf_analyzer itself kept busy, 1.0 for one whole core."""


def measure(
    entry_point: str,
    url: str,
    data: Path,
    *,
    in_flight: int,
    seconds: float,
    program: PerfAnalyzer | None = None,
) -> Measured:
    """Keep `in_flight` requests under way for `seconds`, and measure.

    Args:
        entry_point: The Triton model.
        url: host:port of gRPC.
        data: What `write_input_data` wrote.
        in_flight: Requests under way at any time.
        seconds: How long requests are counted; longer where a third of it is too short for
            perf_analyzer, which wants to see several answers in each of its windows.
        program: The installed perf_analyzer; None for the one in the user's cache.

    Raises:
        PerfAnalyzerMissingError: it is not installed.
        PerfAnalyzerError: a request failed, the server is not there, or it did not end in time.
    """
    program = program or find_perf_analyzer()
    for longer in LONGER:
        try:
            return _measure(entry_point, url, data, in_flight, seconds * longer, program)
        except PerfAnalyzerError as error:
            short = any(words in str(error) for words in ANOTHER_TRY)
            if not short or longer == LONGER[-1]:
                raise
    raise AssertionError("unreachable")


def _measure(
    entry_point: str,
    url: str,
    data: Path,
    in_flight: int,
    seconds: float,
    program: PerfAnalyzer,
) -> Measured:
    with tempfile.TemporaryDirectory(prefix="tritium-perf-") as folder:
        report = Path(folder) / "report.csv"
        command = [
            str(program.program), "-m", entry_point, "-u", url, "-i", "grpc", "-a",
            "--input-data", str(data), "--concurrency-range", str(in_flight),
            # Three windows, the fewest that it reports on; whether a run is stable is judged over
            # its repeats, by the report.
            "--measurement-interval", str(int(seconds * 1000 / WINDOWS)),
            "--max-trials", str(WINDOWS), "--stability-percentage", "999",
            "-f", str(report), "--verbose-csv",
        ]  # fmt: skip
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        output = _run(command, program, seconds + GRACE_S)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return _read(report, output, in_flight, seconds, busy / seconds)


def _run(command: list[str], program: PerfAnalyzer, timeout_s: float) -> str:
    try:
        done = subprocess.run(
            command,
            env=program.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PerfAnalyzerError(
            f"perf_analyzer did not end within {timeout_s:.0f} s; is {command[4]} overloaded?"
        ) from error
    output = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        raise PerfAnalyzerError(f"perf_analyzer: {_reason(output)}")
    return output


def _reason(output: str) -> str:
    """The line that says why, of many: what a request failed with, else the first complaint."""
    _, told, error = output.partition("had error: ")
    if told:
        return " ".join(error.split())
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for line in lines:
        if "error" in line.lower() or "failed" in line.lower():
            return line
    return lines[-1] if lines else "it ended without a word"


def _read(
    report: Path, output: str, in_flight: int, seconds: float, generator_cpu: float
) -> Measured:
    try:
        with report.open(newline="", encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
    except (OSError, ValueError) as error:
        raise PerfAnalyzerError(f"perf_analyzer measured nothing: {_reason(output)}") from error
    times = {
        name.lower(): float(value) / 1000
        for name, value in row.items()
        if name and value and name not in {"Concurrency", "Inferences/Second"}
    }
    percentiles = {f"{name}_ms": times[f"{name} latency"] for name in PERCENTILES}
    steps = {name: value for name, value in times.items() if not name.endswith(" latency")}
    return Measured(
        in_flight=in_flight,
        seconds=seconds,
        per_second=float(row["Inferences/Second"]),
        mean_ms=times["avg latency"],
        average_ms=steps,
        generator_cpu=generator_cpu,
        **percentiles,
    )
