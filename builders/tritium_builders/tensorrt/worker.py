"""One plan, built in a process of its own: ONNX in, plan and a report out.

    python -m tritium_builders.tensorrt.worker REQUEST.json ANSWER.json

Polygraphy decides when it is imported whether it drives TensorRT or TensorRT for RTX, and a
builder that runs out of memory or crashes takes its process along. So each build has its own;
`plans.py` starts it. The same code builds the plan that is served (TensorRT, on a GPU) and the one
that only proves that the graph and its profiles can be built (TensorRT for RTX, ahead of time).

Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/polygraphy/index.html
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tritium_builders.errors import CompileError
from tritium_builders.release import ProfileShape, Record
from tritium_builders.tensorrt.options import HardwareCompatibility
from tritium_builders.tensorrt.profiles import check_profiles

MEBIBYTE = 1024 * 1024


class PlanRequest(Record):
    """What to build."""

    graph: Path
    """The .onnx file; strongly typed: what precision it says is what is built."""
    plan: Path
    """Where the plan goes."""
    profiles: list[dict[str, ProfileShape]]
    compute_capabilities: Sequence[tuple[int, int]] = ()
    """For TensorRT for RTX: the GPUs to build for, ahead of time. Empty: TensorRT, on this GPU."""
    workspace_mib: int | None = None
    timing_cache: Path | None = None
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    optimisation_level: int | None = None


class PlanAnswer(Record):
    """What was built, or why not."""

    error: str | None = None
    tensorrt_version: str = ""
    layers: int = 0
    parse_s: float = 0.0
    build_s: float = 0.0
    plan_bytes: int = 0


def build_plan(request: PlanRequest) -> PlanAnswer:
    """Parse, check the profiles, build and write one plan.

    Raises:
        CompileError: what the parser, the profiles or the builder refused.
    """
    from polygraphy.backend.trt import (
        EngineBytesFromNetwork,
        NetworkFromOnnxPath,
    )
    from polygraphy.exception import PolygraphyException
    from polygraphy.mod.trt_importer import lazy_import_trt

    trt = lazy_import_trt()
    name = request.graph.stem
    began = time.perf_counter()
    try:
        builder, network, parser = NetworkFromOnnxPath(str(request.graph), strongly_typed=True)()
    except PolygraphyException as error:
        raise CompileError(f"{name}: TensorRT's parser refused the graph: {error}") from error
    if network.num_layers == 0:
        # A file that is no ONNX at all parses to an empty network, without an error.
        raise CompileError(f"{name}: TensorRT's parser found no layers; the file is no ONNX graph")
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    check_profiles({tensor.name: tuple(tensor.shape) for tensor in inputs}, request.profiles)
    parsed = time.perf_counter()
    engine = EngineBytesFromNetwork(
        (builder, network, parser),
        config=_config(request, trt),
        save_timing_cache=None if request.timing_cache is None else str(request.timing_cache),
    )
    try:
        plan = bytes(engine())
    except PolygraphyException as error:
        raise CompileError(f"{name}: TensorRT could not build the plan: {error}") from error
    request.plan.write_bytes(plan)
    return PlanAnswer(
        tensorrt_version=str(trt.__version__),
        layers=network.num_layers,
        parse_s=parsed - began,
        build_s=time.perf_counter() - parsed,
        plan_bytes=len(plan),
    )


def _config(request: PlanRequest, trt: Any) -> Any:
    """The builder's configuration, as Polygraphy makes it when the network is known."""
    from polygraphy.backend.trt import CreateConfig, Profile

    profiles = []
    for given in request.profiles:
        profile = Profile()
        for name, shape in given.items():
            profile.add(name, tuple(shape.min), tuple(shape.opt), tuple(shape.max))
        profiles.append(profile)
    common: dict[str, Any] = {"profiles": profiles}
    if request.compute_capabilities:
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        return CreateConfigRTX(compute_capabilities=request.compute_capabilities, **common)
    if request.workspace_mib is not None:
        common["memory_pool_limits"] = {
            trt.MemoryPoolType.WORKSPACE: request.workspace_mib * MEBIBYTE
        }
    if request.timing_cache is not None:
        common["load_timing_cache"] = str(request.timing_cache)
    if request.hardware_compatibility != "none":
        level = request.hardware_compatibility.upper()
        if not hasattr(trt.HardwareCompatibilityLevel, level):
            raise CompileError(
                f"hardware_compatibility {request.hardware_compatibility} is not known to "
                f"TensorRT {trt.__version__}; it has "
                f"{', '.join(sorted(trt.HardwareCompatibilityLevel.__members__)).lower()}"
            )
        common["hardware_compatibility_level"] = getattr(trt.HardwareCompatibilityLevel, level)
    # Never a precision flag: TensorRT 11 has none, and the graph says what each node computes in.
    # TF32 stays off (Polygraphy's default), or fp32 would not be what parity compares with.
    return CreateConfig(
        version_compatible=request.version_compatible,
        builder_optimization_level=request.optimisation_level,
        **common,
    )


def main(request: Path, answer: Path) -> None:
    """Read a request, build, write the answer; what goes wrong is part of the answer."""
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.WARNING
    try:
        found = build_plan(PlanRequest.model_validate_json(request.read_bytes()))
    except CompileError as error:
        found = PlanAnswer(error=str(error))
    answer.write_text(found.model_dump_json(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
