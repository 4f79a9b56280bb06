"""A TensorRT release: prepared graphs -> plans -> components, verified on the GPU."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from tritium_builders.bundle import Bundle, file_entry
from tritium_builders.components import (
    VERSION,
    StagedComponent,
    component_folder,
    finish_component,
)
from tritium_builders.configs import component_graphs
from tritium_builders.errors import CompileError
from tritium_builders.parity import verify
from tritium_builders.precision.graphs import graph_servables
from tritium_builders.publish import Made
from tritium_builders.release import PlanRecord, Precision, TensorRTRecord
from tritium_builders.tensorrt.configs import PLAN, RECORD, plan_config
from tritium_builders.tensorrt.machine import BuildMachine
from tritium_builders.tensorrt.options import TensorRTOptions
from tritium_builders.tensorrt.plans import run_plan_worker
from tritium_builders.tensorrt.prepare import Prepared, Progress, prepare
from tritium_builders.tensorrt.runtime import PlanRuntime
from tritium_builders.tensorrt.worker import PlanRequest
from tritium_client import contract
from tritium_client.contract import Role

AMPERE = (8, 0)


def make_release(
    bundle: Bundle,
    precision: Precision,
    options: TensorRTOptions,
    machine: BuildMachine,
    repository: Path,
    staging: Path,
    progress: Progress = lambda _step, _item: None,
) -> Made:
    """Make the components of a TensorRT release on a machine with a GPU.

    Args:
        bundle: The bundle.
        precision: Of the engines.
        options: How plans are built and served.
        machine: This machine.
        repository: Where plans that were built before may lie.
        staging: An empty folder on the repository's filesystem.
        progress: Told what is being done.

    Raises:
        BundleError, ExportError, CompileError, ParityError, AccuracyError: what went wrong.
    """
    require_capable(machine, precision, options)
    prepared = prepare(bundle, precision, options, staging, progress)
    plans, record = stage_plans(
        bundle, prepared, options, machine, repository, staging, progress=progress
    )
    servables = {
        **{role: component.load for role, component in prepared.readers.items()},
        **graph_servables(
            bundle.manifest,
            {role: component.folder / VERSION / PLAN for role, component in plans.items()},
            lambda role, plan: PlanRuntime(plan, prepared.profiles[role]),
        ),
    }
    report = verify(
        bundle,
        servables,
        precision,
        lambda role: progress("verify on the GPU", role),
        buckets=prepared.buckets,
    )
    staged = {**prepared.readers, **plans}
    return Made(staged, report, options.max_batch, prepared.casts, prepared.accuracy, record)


def require_capable(machine: BuildMachine, precision: Precision, options: TensorRTOptions) -> None:
    """Refuse what this GPU cannot build.

    Raises:
        CompileError: naming the option and the GPU.
    """
    if machine.gpu.compute_capability >= AMPERE:
        return
    what = f"{machine.gpu.name} has compute capability {machine.compute_capability}"
    if options.hardware_compatibility == "ampere_plus":
        raise CompileError(
            f"hardware_compatibility ampere_plus needs a GPU of compute capability 8.0 or higher "
            f"to build on, and {what}; leave it out, or build on another GPU"
        )
    if precision == "bf16":
        raise CompileError(
            f"bf16 needs a GPU of compute capability 8.0 or higher, and {what}; use fp16"
        )


def stage_plans(
    bundle: Bundle,
    prepared: Prepared,
    options: TensorRTOptions,
    machine: BuildMachine,
    repository: Path,
    staging: Path,
    *,
    progress: Progress = lambda _step, _item: None,
) -> tuple[dict[Role, StagedComponent], TensorRTRecord]:
    """Build every plan, or take it from the repository, and write its component.

    A plan's bytes differ from build to build, so a component is named by what determines them:
    graph, profiles, options, TensorRT and GPU. A retrained head leaves the encoders' names, and
    their plans, as they are.

    Args:
        bundle: The bundle.
        prepared: The graphs and profiles.
        options: How plans are built and served.
        machine: What they are built on.
        repository: Where plans that were built before may lie.
        staging: A folder on the repository's filesystem.
        progress: Told the role of each component.
    """
    described = component_graphs(bundle.manifest)
    staged, plans = {}, {}
    for role, graph in prepared.graphs.items():
        profiles = prepared.profiles[role]
        config = plan_config(described[role], profiles, options)
        digest = _digest(config, graph, options, machine)
        folder = component_folder(staging, role)
        published = repository / contract.component(bundle.manifest.app, role, digest)
        if not _take(published, folder):
            progress("compile", role)
            built = run_plan_worker(_request(graph, folder / VERSION / PLAN, profiles, options))
            plan = PlanRecord(profiles=profiles, layers=built.layers, seconds=built.seconds)
            (folder / VERSION / RECORD).write_text(plan.model_dump_json(indent=2), "utf-8")
        plans[role] = PlanRecord.model_validate_json((folder / VERSION / RECORD).read_bytes())
        staged[role] = finish_component(bundle.manifest.app, role, config, folder, digest)
    record = TensorRTRecord(
        version=machine.tensorrt_version,
        compute_capability=machine.compute_capability,
        options=options.describe(),
        plans=plans,
    )
    return staged, record


def _request(graph: Path, plan: Path, profiles: list[Any], options: TensorRTOptions) -> PlanRequest:
    return PlanRequest(
        graph=graph,
        plan=plan,
        profiles=profiles,
        workspace_mib=options.workspace_mib,
        timing_cache=options.timing_cache,
        hardware_compatibility=options.hardware_compatibility,
        version_compatible=options.version_compatible,
        optimisation_level=options.optimisation_level,
    )


def _digest(
    config: pb.ModelConfig, graph: Path, options: TensorRTOptions, machine: BuildMachine
) -> str:
    parts = {
        "config": text_format.MessageToString(config),
        "graph": file_entry(graph).sha256,
        "options": {**options.describe(), "timing_cache": None},
        "tensorrt": machine.tensorrt_version,
        "gpu": [machine.gpu.name, machine.compute_capability],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _take(published: Path, folder: Path) -> bool:
    """Take the plan of a published component, if it is there."""
    if not (published / VERSION / RECORD).is_file():
        return False
    for name in (PLAN, RECORD):
        source, target = published / VERSION / name, folder / VERSION / name
        try:
            target.hardlink_to(source)
        except OSError:  # not on this filesystem
            shutil.copyfile(source, target)
    return True
