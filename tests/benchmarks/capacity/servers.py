"""Servers that nobody measured, for what plans with them."""

from __future__ import annotations

from tests.benchmarks.records import MANIFEST

from tritium_benchmarks.capacity.record import BatchTime, OpenPlace, ReplicaRecord
from tritium_benchmarks.records import QUANTILES, Latency

BASE_MS, EACH_MS = 10.0, 20.0


def latency(mean: float) -> Latency:
    """Of requests that take a tenth more or less."""
    quantiles = tuple(mean * (0.9 + 0.002 * percent) for percent in QUANTILES)
    return Latency(mean=mean, p50=mean, p95=mean * 1.09, p99=mean * 1.098, quantiles=quantiles)


def record(
    *, app: str = "demo", started: str = "2026-11-25T00:00:00+00:00", gpus: int = 0
) -> ReplicaRecord:
    """A server whose batches take 10 ms and 20 ms for each request; alone half of that."""
    sizes = [(2, 1), (4, 1), (4, 2), (8, 4), (16, 8)]
    return ReplicaRecord(
        app=app,
        manifest=MANIFEST | {"started": started},
        component="encoders",
        instances=2,
        max_batch=8,
        queue=256,
        cores=2,
        gpus=gpus,
        memory_mib=512.0,
        alone=latency(17.0),
        alone_batch=latency(15.0),
        alone_outside=latency(2.0),
        service=tuple(
            BatchTime(in_flight=flight, batch=batch, count=50, mean_ms=BASE_MS + batch * EACH_MS)
            for flight, batch in sizes
        ),
        places=(
            OpenPlace(
                rate=30.0, seconds=8.0, seed=0, per_second=29.5, latency=latency(25.0),
                failures={"ServerUnavailable": 1}, generator_cpu=0.1, load_average=0.5,
            ),
        ),
    )  # fmt: skip
