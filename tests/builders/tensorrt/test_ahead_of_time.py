"""NVIDIA's own parser and builder take our graphs, profiles and casts: TensorRT for RTX.

It needs no GPU and cannot run what it builds; see docs/gpu-verification.md for what that leaves
unproved.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest

from tests.support.towers import FULL, IMAGES, LENGTHS, TEXTS, Tower, make_tower
from tritium_builders.precision.worker import CastAnswer, CastJob, CastRequest
from tritium_builders.release import ComponentCast, Precision
from tritium_builders.tensorrt.plans import BuiltPlan, run_plan_worker
from tritium_builders.tensorrt.profiles import component_profiles
from tritium_builders.tensorrt.worker import PlanRequest
from tritium_client.contract import ATTENTION_MASK, INPUT_IDS

MAX_BATCH = 16
CAPABILITIES = [(8, 0), (8, 9)]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
REDUCED = (*TEXTS, *IMAGES) if FULL else ("bert", "resnet50")
"""Casting takes longest, and has one way for transformers and one for CNNs."""
PAIRS = (("bert", "resnet50"), ("clip_text", "vit"), ("clip_vision",))
"""What one process casts: starting it costs more than casting."""
CASES = [
    (name, precision)
    for precision in PRECISIONS
    for name in (*TEXTS, *IMAGES)
    if precision == "fp32" or name in REDUCED
]


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tower]:
    """Every encoder, exported once."""
    folder = tmp_path_factory.mktemp("towers")
    return {name: make_tower(name, folder) for name in (*TEXTS, *IMAGES)}


@pytest.fixture(scope="module")
def casts(
    towers: Mapping[str, Tower], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, Precision], tuple[Path, ComponentCast | None]]:
    """Every encoder in every precision. Random weights have no accuracy to keep, so no bound."""
    from tritium_builders.precision.graphs import save_samples

    folder = tmp_path_factory.mktemp("casts")
    found: dict[tuple[str, Precision], tuple[Path, ComponentCast | None]] = {}
    for name, tower in towers.items():
        found[name, "fp32"] = (tower.graph, None)
        save_samples(folder / name, tower.component, tower.samples)
    for precision in PRECISIONS[1:]:
        for names in PAIRS:
            cast = {name: towers[name] for name in names if (name, precision) in CASES}
            found |= _cast(folder, cast, precision) if cast else {}
    return found


def _cast(
    folder: Path, towers: Mapping[str, Tower], precision: Precision
) -> dict[tuple[str, Precision], tuple[Path, ComponentCast | None]]:
    """Cast encoders of different roles, as one app's are cast."""
    jobs = [
        CastJob(
            role=tower.component.role, graph=tower.graph, out=folder / f"{name}-{precision}.onnx",
            samples=folder / name, cosine=-1, relative=1e9,
        )
        for name, tower in towers.items()
    ]  # fmt: skip
    asked, answer = folder / "request.json", folder / "answer.json"
    asked.write_text(CastRequest(precision=precision, jobs=jobs).model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", "tritium_builders.precision.worker", asked, answer],
        check=False, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    casts = CastAnswer.model_validate_json(answer.read_bytes()).casts
    return {
        (name, precision): (job.out, casts[job.role])
        for name, job in zip(towers, jobs, strict=True)
    }


def build_ahead_of_time(graph: Path, tower: Tower, plan: Path) -> BuiltPlan:
    request = PlanRequest(
        graph=graph,
        plan=plan,
        profiles=component_profiles(tower.component, LENGTHS, MAX_BATCH),
        compute_capabilities=CAPABILITIES,
    )
    return run_plan_worker(request, timeout_s=1800)


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_usual_encoders_build_with_every_profile(
    name: str,
    precision: Precision,
    towers: dict[str, Tower],
    casts: dict[tuple[str, Precision], tuple[Path, ComponentCast | None]],
    tmp_path: Path,
) -> None:
    graph, cast = casts[name, precision]
    built = build_ahead_of_time(graph, towers[name], tmp_path / "model.plan")
    # A file that is no ONNX parses to nothing, without an error.
    assert built.layers > 50
    assert built.file.stat().st_size > 1_000_000
    model = onnx.load(str(graph), load_external_data=False)
    types = {tensor.data_type for tensor in model.graph.initializer}
    if precision == "fp16":
        assert onnx.TensorProto.FLOAT16 in types
    if precision == "int8":
        assert cast is not None
        assert cast.precision == "int8"
        operators = {node.op_type for node in model.graph.node}
        assert {"QuantizeLinear", "DequantizeLinear"} <= operators


@pytest.mark.parametrize("name", TEXTS)
def test_ids_and_mask_agree_in_every_profile(name: str, towers: dict[str, Tower]) -> None:
    """NVIDIA's builder does not notice when they differ."""
    profiles = component_profiles(towers[name].component, LENGTHS, MAX_BATCH)
    assert [profile[INPUT_IDS].opt[1] for profile in profiles] == list(LENGTHS)
    for profile in profiles:
        assert profile[INPUT_IDS] == profile[ATTENTION_MASK]
        assert profile[INPUT_IDS].min[0] == 1
        assert profile[INPUT_IDS].max[0] == MAX_BATCH


@pytest.mark.parametrize("name", REDUCED)
def test_an_fp16_graph_answers_nearly_what_fp32_answers(
    name: str, casts: dict[tuple[str, Precision], tuple[Path, ComponentCast | None]]
) -> None:
    _, cast = casts[name, "fp16"]
    assert cast is not None
    assert cast.cosine > 0.9999
