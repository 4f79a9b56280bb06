"""Start the process that builds a plan, and understand how it ended."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tritium_builders.errors import CompileError
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


def run_worker(request: PlanRequest, *, timeout_s: float = TIMEOUT_S) -> BuiltPlan:
    """Build one plan in a process of its own.

    Args:
        request: What to build; with compute capabilities, TensorRT for RTX builds ahead of time.
        timeout_s: Seconds before the build is given up.

    Raises:
        CompileError: with what TensorRT said.
    """
    name = request.graph.stem
    flavour = "1" if request.compute_capabilities else "0"
    with tempfile.TemporaryDirectory(prefix="tritium-plan-") as folder:
        asked, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked.write_text(request.model_dump_json(), encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, "-m", "tritium_builders.tensorrt.worker", asked, answer],
                check=False,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=timeout_s,
                env={**os.environ, "POLYGRAPHY_USE_TENSORRT_RTX": flavour},
            )
        except subprocess.TimeoutExpired as error:
            raise CompileError(
                f"{name}: TensorRT did not finish within {timeout_s:g} s; build fewer profiles or "
                "lower optimisation_level"
            ) from error
        if not answer.is_file():
            raise CompileError(
                f"{name}: the process that built the plan ended with status {done.returncode}: "
                f"{_last(done.stdout)}"
            )
        found = PlanAnswer.model_validate_json(answer.read_bytes())
    if found.error is not None:
        said = _said(done.stdout, "E")
        # The parser names the node in its last words, after three lines of banner.
        nodes = [line for line in said if line.startswith("In node")]
        detail = "; ".join((nodes or said)[:2])
        raise CompileError(f"{found.error} ({detail})" if detail else found.error)
    return BuiltPlan(
        request.plan,
        found.tensorrt_version,
        found.layers,
        found.parse_s + found.build_s,
        tuple(_said(done.stdout, "W")),
    )


def _said(log: str, severity: str) -> list[str]:
    """What was logged at one severity, one line each, without repetitions."""
    entries = re.findall(rf"^\[{severity}\] (.*(?:\n(?!\[).*)*)", log, re.MULTILINE)
    lines = [" ".join(entry.split())[:400] for entry in entries]
    return [line for line in dict.fromkeys(lines) if not any(words in line for words in _HARMLESS)]


def _last(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return " | ".join(lines[-3:])[:600] or "it said nothing"
