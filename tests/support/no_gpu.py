"""TensorRT releases on a machine without a GPU.

Two things of a build need one: TensorRT itself, in whose place TensorRT for RTX builds each plan
ahead of time, and the run that verifies the plans, in whose place ONNX Runtime runs the graphs
that they were built from. All the rest is what `tritium build --target tensorrt` does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from tritium_builders.bundle import Bundle, file_entry
from tritium_builders.components import CONFIG, VERSION, servable_source
from tritium_builders.configs import component_graphs, engine_spec, to_pbtxt
from tritium_builders.precision.reference import ReferenceRuntime
from tritium_builders.tensorrt import machine, make, plans
from tritium_builders.tensorrt.configs import PLAN
from tritium_builders.tensorrt.machine import BuildMachine, Gpu
from tritium_builders.tensorrt.plans import BuiltPlan
from tritium_builders.tensorrt.worker import PlanRequest

A10 = BuildMachine("10.13.2.6", Gpu("NVIDIA A10", (8, 6)))


class NoGpu:
    """Builds as on a machine with an A10; counts the plans that were built.

    A plan that was built before, from the same graph for the same profiles, is counted and copied:
    the machine has another name now and then, and is the same.

    Args:
        patch: Undone when the test, or the module, ends.
        folder: Where the graphs are kept that the plans were built from.
    """

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.built: list[str] = []
        self._folder = folder
        self._plans: dict[str, BuiltPlan] = {}
        self.machine = A10
        patch.setattr(machine, "find_build_machine", lambda _arguments: self.machine)
        patch.setattr(make, "run_plan_worker", self._build)
        patch.setattr(make, "PlanRuntime", self._open)

    def _build(self, request: PlanRequest) -> BuiltPlan:
        self.built.append(request.graph.stem)
        profiles = request.model_dump_json(include={"profiles"})
        key = f"{file_entry(request.graph).sha256} {profiles}"
        if key in self._plans:
            shutil.copyfile(self._plans[key].file, request.plan)
            return replace(self._plans[key], file=request.plan)
        built = plans.run_plan_worker(
            PlanRequest(
                graph=request.graph,
                plan=request.plan,
                profiles=request.profiles,
                compute_capabilities=[(8, 6)],
            )
        )
        shutil.copyfile(request.graph, self.graph_of(request.plan))
        kept = shutil.copyfile(request.plan, self._folder / f"{len(self._plans)}.plan")
        self._plans[key] = replace(built, file=kept)
        return built

    def graph_of(self, plan: Path) -> Path:
        """Where the graph of a plan lies."""
        return self._folder / f"{file_entry(plan).sha256}.onnx"

    def _open(self, plan: Path, _profiles: Sequence[Any]) -> ReferenceRuntime:
        return ReferenceRuntime(self.graph_of(plan))


def on_the_cpu(repository: Path, bundle: Bundle, no_gpu: NoGpu, target: Path) -> Path:
    """Copy a repository of plans so that a Triton without TensorRT runs it.

    Every config stays as it was published but for the backend: names, tensors, batching, warm-up
    requests, ensembles. The engine servable runs the graph that the plan was built from.
    """
    shutil.copytree(repository, target)
    graphs = component_graphs(bundle.manifest)
    for path in sorted(target.glob(f"*/{CONFIG}")):
        config = text_format.Parse(path.read_text("utf-8"), pb.ModelConfig())
        if config.backend != "tensorrt":
            continue
        role = next(
            role
            for role in sorted(graphs, key=len, reverse=True)
            if config.name.startswith(f"{bundle.manifest.app}_{role}_")
        )
        config.backend = "python"
        config.ClearField("default_model_filename")
        config.ClearField("optimization")
        for group in config.instance_group:
            group.kind = pb.ModelInstanceGroup.KIND_CPU
            del group.profile[:]
        spec = engine_spec(graphs[role], "onnxruntime", "graph.onnx")
        plan = path.parent / VERSION / PLAN
        shutil.copyfile(no_gpu.graph_of(plan), plan.with_name("graph.onnx"))
        config.parameters["spec"].string_value = json.dumps(spec)
        path.write_text(to_pbtxt(config), encoding="utf-8")
        (path.parent / VERSION / "model.py").write_text(servable_source("engine"))
    return target
