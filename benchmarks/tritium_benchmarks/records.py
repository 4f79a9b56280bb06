"""What a run measured, as it is kept: `run.json`.

record = read_record("benchmarks/results/bench")
record.measurements[0].per_second
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from tritium_benchmarks.driver import Load
from tritium_benchmarks.errors import RecordError
from tritium_benchmarks.perf_analyzer.measure import Measured
from tritium_benchmarks.workload import Workload

RECORD = "run.json"
SCHEMA = 1
Tool = Literal["driver", "perf_analyzer", "in_process"]
"""What asked: our asyncio driver, NVIDIA's perf_analyzer, or a loop with no server."""
QUANTILES = (*range(0, 100, 5), 99, 99.9, 100)
"""Of the latencies that are kept, in percent."""


class Kept(BaseModel):
    """What is kept as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)


AnyKept = TypeVar("AnyKept", bound=Kept)


class Latency(Kept):
    """Milliseconds from sending a request (open loop: from when it was due) to its answer."""

    mean: float
    p50: float
    p95: float
    p99: float
    quantiles: tuple[float, ...] = ()
    """At `QUANTILES`; empty where a tool does not tell them."""

    @classmethod
    def of(cls, milliseconds: npt.NDArray[np.float64]) -> Latency:
        """Summarise latencies, at least one."""
        p50, p95, p99 = np.percentile(milliseconds, (50, 95, 99))
        quantiles = np.percentile(milliseconds, QUANTILES)
        return cls(
            mean=short(milliseconds.mean()),
            p50=short(p50),
            p95=short(p95),
            p99=short(p99),
            quantiles=tuple(map(short, quantiles)),
        )


class Measurement(Kept):
    """One contender under one load, once."""

    contender: str
    tool: Tool
    load: str
    """For people: `16 in flight`, `70 % of the peak`."""
    in_flight: int | None = None
    """Closed loop: requests under way."""
    rate: float | None = None
    """Open loop: requests sent per second."""
    repeat: int
    """Counts from 0; measurements of one repeat ran one after the other."""
    seconds: float
    per_second: float
    """Answered requests."""
    latency: Latency | None = None
    """None where nothing was answered, and for a loop with no server."""
    failures: dict[str, int] = {}
    """Kind of error -> requests."""
    generator_cpu: float = 0.0
    """Cores that the load generator kept busy."""
    server_cpu: float = 0.0
    """Cores that the contender kept busy."""

    @classmethod
    def of_load(cls, seen: Load, /, **known: Any) -> Measurement:
        """Of what the driver saw."""
        latency = Latency.of(seen.latencies_ms) if len(seen.latencies_ms) else None
        return cls(
            tool="driver",
            seconds=short(seen.seconds),
            per_second=short(seen.per_second),
            latency=latency,
            failures=dict(seen.failures),
            generator_cpu=short(seen.generator_cpu),
            **known,
        )

    @classmethod
    def of_perf_analyzer(cls, measured: Measured, /, **known: Any) -> Measurement:
        """Of what perf_analyzer saw."""
        return cls(
            tool="perf_analyzer",
            in_flight=measured.in_flight,
            seconds=measured.seconds,
            per_second=short(measured.per_second),
            latency=Latency(
                mean=short(measured.mean_ms),
                p50=short(measured.p50_ms),
                p95=short(measured.p95_ms),
                p99=short(measured.p99_ms),
            ),
            generator_cpu=short(measured.generator_cpu),
            **known,
        )


class StepTime(Kept):
    """Where the time of Tritium's requests went, means over one load: one step of the graph."""

    in_flight: int
    step: str
    """A component's role, or `whole` for the entry point with all its steps."""
    requests: int
    executions: int
    """Batches: fewer than requests where several were answered together."""
    queue_ms: float
    input_ms: float
    infer_ms: float
    output_ms: float

    @property
    def total_ms(self) -> float:
        """Milliseconds that a request spent in the step."""
        return self.queue_ms + self.input_ms + self.infer_ms + self.output_ms


class Fairness(Kept):
    """What a contender answers for the held-out items."""

    contender: str
    items: int
    differ: int
    """Labels that are not those of the bundle's own PyTorch model."""
    accuracy: float | None
    """Share of right labels; None where nobody said what is right."""


class RunRecord(Kept):
    """All of one run."""

    schema_version: int = SCHEMA
    app: str
    workload: Workload
    manifest: dict[str, Any]
    """The machine, the versions, the release: what the figures hold for."""
    contenders: dict[str, str]
    """Name -> title."""
    ended: str
    """`complete`, or why it is not."""
    fairness: tuple[Fairness, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    steps: tuple[StepTime, ...] = ()


def write_record(record: RunRecord, folder: Path) -> Path:
    """Write `run.json`; whoever reads it meanwhile sees the old one or the new one, whole.

    Raises:
        RecordError: the folder cannot be written, with the reason and the fix.
    """
    return keep(record, folder / RECORD)


def keep(document: Kept, path: Path) -> Path:
    """Write a document; whoever reads it meanwhile sees the old one or the new one, whole.

    Raises:
        RecordError: the folder cannot be written, with the reason and the fix.
    """
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(document.model_dump_json(indent=1) + "\n")
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RecordError(
            f"{path} cannot be written ({error.strerror}); make room, or give another --out"
        ) from error
    return path


def read_record(place: str | Path) -> RunRecord:
    """Read a run.

    Args:
        place: A `run.json`, or the folder that it lies in.

    Raises:
        RecordError: there is none, or it is not one.
    """
    path = Path(place)
    return read_kept(RunRecord, path / RECORD if path.is_dir() else path, "tritium bench run")


def read_kept(kind: type[AnyKept], path: Path, command: str) -> AnyKept:
    """Read what `keep` wrote.

    Args:
        kind: What it is.
        path: Where it lies.
        command: What writes such files, for errors.

    Raises:
        RecordError: it is not there, or not what it should be.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RecordError(
            f"{path} cannot be read ({error.strerror}); give the folder that `{command} "
            "--out` wrote"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise RecordError(f"{path}: {where}: {first['msg']}; measure again") from error


def short(value: float) -> float:
    """Five digits: more are noise, and make the committed files long."""
    return float(f"{float(value):.5g}")
