"""From measured curves to a server that can be simulated.

replica, error = fit(read_replica(path))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tritium_benchmarks.capacity.record import ReplicaRecord, read_replica
from tritium_benchmarks.capacity.replica import Replica, factors, spread
from tritium_benchmarks.curves.records import RECORD as CURVES
from tritium_benchmarks.curves.records import Curves, median, read_curves
from tritium_benchmarks.errors import PlanError
from tritium_benchmarks.records import QUANTILES, Latency
from tritium_builders.configs import ENCODERS_BATCH, share_cores_out

LEAST_ALONE = 0.1
LAST_PERCENT = 99
"""Beyond it one request in a hundred decides: that is chance, or somebody else on the machine."""


def read_server(place: Path) -> tuple[Replica, str]:
    """A server, and in words what it was measured on.

    Args:
        place: A `replica.json`, a `curves.json`, or a folder with one of them.

    Raises:
        RecordError: it cannot be read.
        PlanError: it lacks what a plan needs.
    """
    curves = place if place.name == CURVES else place / CURVES
    if curves.is_file():
        found = read_curves(curves.parent)
        return from_curves(found), _told(found.app, found.manifest)
    record = read_replica(place)
    return fit(record), _told(record.app, record.manifest)


def _told(app: str, manifest: dict[str, object]) -> str:
    where = f"{manifest['processor']}, {manifest['cores']} cores"
    return f"{app} on {where}, measured {str(manifest['started'])[:10]}"


def fit(record: ReplicaRecord) -> Replica:
    """The server that a `replica.json` describes.

    Raises:
        PlanError: too little was measured.
    """
    busy = [line for line in record.service if line.in_flight > record.instances] or record.service
    base_s, each_s = _line(
        [line.batch for line in busy],
        [line.mean_ms / 1000 for line in busy],
        [line.count for line in busy],
    )
    alone_s = record.alone_batch.mean / 1000
    return Replica(
        base_s=base_s,
        each_s=each_s,
        instances=record.instances,
        max_batch=record.max_batch,
        queue=record.queue,
        alone=_share(alone_s, base_s + each_s) if record.instances > 1 else 1.0,
        outside=tuple(max(value, 0.0) / 1000 for value in _spread(record.alone_outside)),
        scatter=factors(_spread(record.alone_batch)),
        cores=record.cores,
        gpus=record.gpus,
        memory_mib=record.memory_mib,
    )


def from_curves(curves: Curves) -> Replica:
    """The server that `tritium bench curves` went along: from its axis of requests in flight.

    Raises:
        PlanError: that axis was not measured.
    """
    places = curves.at("concurrency")
    alone = next((one.latency for one in places.get(1, ()) if one.latency), None)
    cores = int(curves.manifest["cores"])
    instances, _ = share_cores_out(cores)
    sizes, seconds = [], []
    for in_flight, repeats in places.items():
        rate = median(repeats, lambda place: place.per_second)
        if rate and in_flight >= 2 * instances and not any(place.failures for place in repeats):
            batch = min(ENCODERS_BATCH, in_flight / instances)
            sizes.append(batch)
            seconds.append(instances * batch / rate)
    if alone is None or len(sizes) < 2:
        raise PlanError(
            "these curves do not say how latency grows with requests in flight; measure them with "
            "`tritium bench curves APP --axis concurrency`, or run `tritium bench replica APP`"
        )
    base_s, each_s = _line(sizes, seconds, [1] * len(sizes))
    alone_s = alone.p50 / 1000
    return Replica(
        base_s=base_s,
        each_s=each_s,
        instances=instances,
        max_batch=ENCODERS_BATCH,
        alone=_share(alone_s, base_s + each_s),
        scatter=factors(_spread(alone)),
        cores=cores,
    )


def _line(
    sizes: Sequence[float], seconds: Sequence[float], weights: Sequence[float]
) -> tuple[float, float]:
    """Least squares of `base + each * size`, neither of them negative."""
    weight = np.sqrt(np.array(weights, dtype=float))
    size, took = np.array(sizes, dtype=float), np.array(seconds, dtype=float)
    if len(set(sizes)) == 1:  # one size says nothing of another: each request pays its share
        return 0.0, float(np.average(took, weights=weight**2)) / float(size[0])
    (base, each), *_ = np.linalg.lstsq(
        np.column_stack([weight, weight * size]), weight * took, rcond=None
    )
    if base < 0:
        return 0.0, float((weight**2 * size) @ took / ((weight**2 * size) @ size))
    if each < 0:
        return float(np.average(took, weights=weight**2)), 0.0
    return float(base), float(each)


def _share(alone_s: float, full_s: float) -> float:
    return min(max(alone_s / full_s, LEAST_ALONE), 1.0)


def _spread(latency: Latency) -> tuple[float, ...]:
    """Equally likely milliseconds."""
    kept = [
        (percent, value)
        for percent, value in zip(QUANTILES, latency.quantiles, strict=False)
        if percent <= LAST_PERCENT
    ]
    if not kept:
        return (latency.mean,)
    percents, values = zip(*kept, strict=True)
    return spread(values, percents)
