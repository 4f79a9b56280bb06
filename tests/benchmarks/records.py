"""Runs that nobody measured, for what reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tritium_benchmarks.contenders import LIMIT, TRITIUM
from tritium_benchmarks.records import Latency, Measurement, RunRecord, StepTime
from tritium_benchmarks.workload import load_workload

MANIFEST: dict[str, Any] = {
    "started": "2026-11-25T00:00:00+00:00",
    "command": "tritium bench run demo",
    "processor": "A <fast> one",
    "cores": 2,
    "memory_gib": 16.0,
    "flags": ["avx2"],
    "kernel": "6.1",
    "glibc": "2.36",
    "python": "3.11.7",
    "versions": {"numpy": "1.26.4"},
    "perf_analyzer": "2.51.0",
    "commit": "abc1234",
    "release": {
        "number": 1, "target": "openvino", "precision": "fp32", "bundle": "f" * 64, "created": "",
    },
}  # fmt: skip
TITLES = {TRITIUM: "Tritium", "fastapi-pytorch": "FastAPI + PyTorch", LIMIT: "In-process limit"}
LOADS = {"1 in flight": 1, "16 in flight": 16}


def measurement(
    contender: str, load: str, repeat: int, per_second: float, **changed: Any
) -> Measurement:
    values = {
        "contender": contender, "tool": "driver", "load": load, "in_flight": LOADS.get(load),
        "repeat": repeat, "seconds": 3.0, "per_second": per_second,
        "latency": Latency.of(np.linspace(10, 30, 50) * 50 / per_second),
        "generator_cpu": 0.04, "server_cpu": 1.9,
    }  # fmt: skip
    return Measurement.model_validate(values | changed)


def record(
    speeds: Mapping[str, Sequence[float]] | None = None, *, ended: str = "complete", **changed: Any
) -> RunRecord:
    """A run: contender -> answers per second in each repeat, under every load."""
    speeds = speeds or {TRITIUM: [80, 84, 82, 81], "fastapi-pytorch": [20, 21, 20.5, 20.2]}
    measurements = [
        measurement(contender, load, repeat, value)
        for contender, values in speeds.items()
        if contender != LIMIT
        for repeat, value in enumerate(values)
        for load in LOADS
    ]
    measurements += [
        Measurement(
            contender=LIMIT, tool="in_process", load="openvino, batch 8", repeat=repeat,
            seconds=3, per_second=value,
        )
        for repeat, value in enumerate(speeds.get(LIMIT, ()))
    ]  # fmt: skip
    steps = [
        StepTime(
            in_flight=count, step=step, requests=100, executions=50,
            queue_ms=queue, input_ms=0.1, infer_ms=infer, output_ms=0.1,
        )
        for count in LOADS.values()
        for step, queue, infer in (
            ("whole", 0, 14), ("text_tokenizer", 0.1, 0.5), ("image_encoder", 1.0, 9.0),
        )
    ]  # fmt: skip
    values = {
        "app": "demo", "workload": load_workload("saturate"), "manifest": MANIFEST,
        "contenders": {name: TITLES.get(name, name) for name in speeds}, "ended": ended,
        "measurements": tuple(measurements), "steps": tuple(steps),
    }  # fmt: skip
    return RunRecord.model_validate(values | changed)
