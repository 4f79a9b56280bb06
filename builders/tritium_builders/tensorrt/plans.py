"""Build a plan in a process of its own, and say what TensorRT said."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tritium_builders.errors import CompileError
from tritium_builders.processes import ask_process
from tritium_builders.tensorrt.worker import PlanAnswer, PlanRequest

TIMEOUT_S = 3600.0
"""For one plan. TensorRT times kernels on the GPU; large encoders take tens of minutes."""

_HARMLESS = (
    "'colored' module is not installed",
    "CUDA driver version is insufficient",  # TensorRT for RTX asks for a GPU, and does without
    "has Int64 binding",  # it has: Triton's ids are INT64
)


@dataclass(frozen=True)
class BuiltPlan:
    """A plan on disk."""

    file: Path
    tensorrt_version: str
    """Of TensorRT, or of TensorRT for RTX."""
    layers: int
    """Of the parsed network, before TensorRT fuses any."""
    seconds: float
    """Parsing and building."""
    warnings: tuple[str, ...]
    """What parser and builder warned of, without repetitions."""


def run_plan_worker(request: PlanRequest, *, timeout_s: float = TIMEOUT_S) -> BuiltPlan:
    """Build one plan in a process of its own.

    Args:
        request: What to build; with compute capabilities, TensorRT for RTX builds ahead of time.
        timeout_s: Seconds before the build is given up.

    Raises:
        CompileError: with what TensorRT said.
        MissingExtraError: when Polygraphy or TensorRT is not installed.
    """
    found, log = ask_process(
        "tritium_builders.tensorrt.worker",
        request,
        PlanAnswer,
        what=f"{request.graph.stem}: TensorRT",
        extra="tensorrt-check" if request.compute_capabilities else "tensorrt",
        timeout_s=timeout_s,
        when_slow="build fewer profiles or lower optimisation_level",
        environment={"POLYGRAPHY_USE_TENSORRT_RTX": "1" if request.compute_capabilities else "0"},
    )
    if found.error is not None:
        said = _said(log, "E")
        # The parser names the node in its last words, after three lines of banner.
        nodes = [line for line in said if line.startswith("In node")]
        detail = "; ".join((nodes or said)[:2])
        raise CompileError(f"{found.error} ({detail})" if detail else found.error)
    return BuiltPlan(
        request.plan,
        found.tensorrt_version,
        found.layers,
        found.parse_s + found.build_s,
        tuple(_said(log, "W")),
    )


def _said(log: str, severity: str) -> list[str]:
    """What was logged at one severity, one line each, without repetitions."""
    entries = re.findall(rf"^\[{severity}\] (.*(?:\n(?!\[).*)*)", log, re.MULTILINE)
    lines = [" ".join(entry.split())[:400] for entry in entries]
    return [line for line in dict.fromkeys(lines) if not any(words in line for words in _HARMLESS)]
