"""`tritium build --target tensorrt --check`: all of a build that needs no GPU, and a proof.

Export, cast, calibrate, parity and accuracy are the build's own. In place of plans for a GPU that
is not here, TensorRT for RTX (NVIDIA's parser and ahead-of-time builder) builds every component
with every profile for stated compute capabilities. Those plans cannot be served by Triton and are
thrown away; what they show is that NVIDIA's code takes the graphs and the profiles.
"""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnx

from tritium_builders.bundle import Bundle
from tritium_builders.errors import CompileError, MissingExtraError
from tritium_builders.release import (
    AccuracyReport,
    ComponentCast,
    ParityReport,
    Precision,
    ProfileShape,
    Record,
)
from tritium_builders.tensorrt.options import TensorRTOptions
from tritium_builders.tensorrt.plans import BuiltPlan, run_plan_worker
from tritium_builders.tensorrt.prepare import Prepared, Progress, prepare
from tritium_builders.tensorrt.worker import PlanRequest
from tritium_client.contract import Role

COMPUTE_CAPABILITIES = ((8, 0), (8, 6), (8, 9))
"""Ampere (A100, A10, RTX 30) and Ada (L4, RTX 40)."""
KNOWN_CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
"""What TensorRT for RTX 1.7 builds for ahead of time."""


def parse_capability(text: str) -> tuple[int, int]:
    """Read `8.6`.

    Raises:
        CompileError: for anything else.
    """
    match = re.fullmatch(r"(\d+)\.(\d)", text)
    if match is None:
        raise CompileError(f"a compute capability is written like 8.6, and not {text!r}")
    return int(match[1]), int(match[2])


class ComponentCheck(Record):
    """One component, built ahead of time."""

    operators: dict[str, int]
    """ONNX operator -> how many nodes, most frequent first."""
    layers: int
    """Of the network that TensorRT parsed."""
    profiles: list[dict[str, ProfileShape]]
    seconds: float
    """Parsing and ahead-of-time building."""
    plan_bytes: int
    warnings: list[str]
    cast: ComponentCast


class CheckReport(Record):
    """What `--check` found."""

    app: str
    precision: Precision
    tensorrt_rtx: str
    compute_capabilities: list[str]
    buckets: list[int]
    max_batch: int
    components: dict[Role, ComponentCheck]
    parity: ParityReport
    accuracy: AccuracyReport | None


def check_tensorrt(
    bundle: Bundle,
    *,
    precision: Precision = "fp32",
    options: TensorRTOptions | None = None,
    compute_capabilities: Sequence[tuple[int, int]] = COMPUTE_CAPABILITIES,
    progress: Progress = lambda _step, _item: None,
) -> CheckReport:
    """Do everything of a TensorRT build that needs no GPU; nothing is published.

    Args:
        bundle: The bundle.
        precision: Of the graphs.
        options: Buckets, batch and the rest.
        compute_capabilities: GPUs to build for ahead of time, (major, minor) each.
        progress: Told what is being done.

    Raises:
        BundleError, ExportError, CompileError, ParityError, AccuracyError: what went wrong.
        MissingExtraError: when TensorRT for RTX is not installed.
    """
    _require_known(compute_capabilities)
    if importlib.util.find_spec("tensorrt_rtx") is None:
        raise MissingExtraError("tensorrt-rtx-cu12", "tensorrt-check")
    options = options or TensorRTOptions()
    try:
        with tempfile.TemporaryDirectory(prefix="tritium-check-") as folder:
            prepared = prepare(bundle, precision, options, Path(folder), progress)
            version, components = _build(prepared, compute_capabilities, Path(folder), progress)
    except OSError as error:
        place = error.filename or tempfile.gettempdir()
        raise CompileError(f"{place}: {error.strerror}; nothing was checked") from error
    return CheckReport(
        app=bundle.manifest.app,
        precision=precision,
        tensorrt_rtx=version,
        compute_capabilities=[f"{major}.{minor}" for major, minor in compute_capabilities],
        buckets=list(prepared.buckets),
        max_batch=options.max_batch,
        components=components,
        parity=prepared.parity,
        accuracy=prepared.accuracy,
    )


def _require_known(capabilities: Sequence[tuple[int, int]]) -> None:
    for major, minor in capabilities:
        if (major, minor) not in KNOWN_CAPABILITIES:
            known = ", ".join(f"{one}.{other}" for one, other in KNOWN_CAPABILITIES)
            raise CompileError(
                f"compute capability {major}.{minor} is none that TensorRT for RTX builds for "
                f"ahead of time; it has {known}"
            )


def _build(
    prepared: Prepared,
    compute_capabilities: Sequence[tuple[int, int]],
    folder: Path,
    progress: Progress,
) -> tuple[str, dict[Role, ComponentCheck]]:
    """Build every component ahead of time; TensorRT for RTX's version, and what was built."""
    components: dict[Role, ComponentCheck] = {}
    version = ""
    for role, graph in prepared.graphs.items():
        progress("compile", role)
        built = run_plan_worker(
            PlanRequest(
                graph=graph,
                plan=folder / f"{role}.plan",
                profiles=prepared.profiles[role],
                compute_capabilities=compute_capabilities,
            )
        )
        version = built.tensorrt_version
        components[role] = _describe(graph, built, prepared.profiles[role], prepared.casts[role])
        built.file.unlink()
    return version, components


def _describe(
    graph: Path, built: BuiltPlan, profiles: list[dict[str, ProfileShape]], cast: ComponentCast
) -> ComponentCheck:
    model = onnx.load(str(graph), load_external_data=False)
    operators = Counter(node.op_type for node in model.graph.node)
    return ComponentCheck(
        operators=dict(operators.most_common()),
        layers=built.layers,
        profiles=profiles,
        seconds=built.seconds,
        plan_bytes=built.file.stat().st_size,
        warnings=list(built.warnings),
        cast=cast,
    )
