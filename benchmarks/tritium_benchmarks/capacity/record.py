"""What one server was measured to do, as it is kept: `replica.json`.

record = read_replica(Path("bench-results/openmoji-replica"))
record.service, record.places
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tritium_benchmarks.errors import PlanError
from tritium_benchmarks.records import Kept, Latency, keep, read_kept

RECORD = "replica.json"
COMMAND = "tritium bench replica"


class BatchTime(Kept):
    """How long batches of one size took under one load, as Triton counts it."""

    in_flight: int
    batch: int
    count: int
    """Batches."""
    mean_ms: float


class OpenPlace(Kept):
    """Poisson arrivals at one rate, once: every request is waited for and counted."""

    rate: float
    """Requests per second that were sent."""
    seconds: float
    seed: int
    per_second: float
    """Answers per second: the goodput."""
    latency: Latency | None
    """From when a request was due; None where nothing was answered."""
    failures: dict[str, int]
    generator_cpu: float
    load_average: float
    """Of the machine, over the last minute: who else worked there."""


class ReplicaRecord(Kept):
    """What one server does."""

    app: str
    manifest: dict[str, Any]
    component: str
    """The role whose batches the times are of: the one that takes longest."""
    instances: int
    max_batch: int
    queue: int
    cores: int
    gpus: int
    memory_mib: float | None
    """PSS of all its processes, after all loads."""
    alone: Latency
    """One request in flight."""
    alone_batch: Latency
    """Of that, what the component's batches took."""
    alone_outside: Latency
    """And everything else."""
    service: tuple[BatchTime, ...]
    places: tuple[OpenPlace, ...]


def write_replica(record: ReplicaRecord, folder: Path) -> Path:
    """Write `replica.json`.

    Raises:
        RecordError: the folder cannot be written.
    """
    return keep(record, folder / RECORD)


def read_replica(place: Path) -> ReplicaRecord:
    """Read a `replica.json`, given itself or its folder.

    Raises:
        RecordError: it is not there, or not what it should be.
    """
    return read_kept(ReplicaRecord, place / RECORD if place.is_dir() else place, COMMAND)


def newest_replica(folders: Iterable[Path], app: str | None = None) -> Path:
    """The `replica.json` that was measured last.

    Args:
        folders: Where to look, at any depth; the first that holds one counts.
        app: Whose; None for any.

    Raises:
        PlanError: there is none.
        RecordError: one cannot be read.
    """
    for folder in folders:
        found = [(read_replica(path), path) for path in folder.rglob(RECORD)]
        mine = [(str(record.manifest["started"]), path) for record, path in found
                if app in (None, record.app)]  # fmt: skip
        if mine:
            return max(mine)[1]
    whose = "of any app" if app is None else f"of {app}"
    raise PlanError(
        f"no server {whose} was measured here; run `{COMMAND} {app or 'APP'}`, or give --curve"
    )
