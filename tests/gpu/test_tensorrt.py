"""TensorRT itself: plans answer what their graphs answer, and Triton serves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.gpu.conftest import Built
from tritium_builders.graphs import load_model, write_graphs
from tritium_builders.tensorrt.configs import PLAN
from tritium_builders.tensorrt.machine import Gpu
from tritium_builders.tensorrt.runtime import PlanRuntime
from tritium_builders.tolerances import TOLERANCES
from tritium_client import Client, contract
from tritium_deploy import Server
from tritium_deploy.control import ModelControl

pytestmark = pytest.mark.gpu


def inputs_of(built: Built, role: str, batch: int, profile: int) -> dict[str, Any]:
    """Random inputs that one profile takes."""
    assert built.release.tensorrt is not None
    shapes = built.release.tensorrt.plans[role].profiles[profile]  # type: ignore[index]
    generator = np.random.default_rng(batch)
    found: dict[str, Any] = {}
    for name, shape in shapes.items():
        size = [batch, *shape.max[1:]]
        if name == contract.INPUT_IDS:
            found[name] = generator.integers(1, 1000, size)
        elif name == contract.ATTENTION_MASK:
            found[name] = np.ones(size, np.int64)
        elif name == contract.PIXELS:
            found[name] = generator.integers(0, 256, size, dtype=np.uint8)
        else:
            found[name] = generator.normal(size=size).astype(np.float32)
    return found


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("role", ["text_encoder", "image_encoder", "fusion_head"])
def test_a_plan_answers_as_its_graph_does_at_every_profile(
    pooled: Built, role: str, batch: int, tmp_path: Path
) -> None:
    """Polygraphy's Comparator: TensorRT on the GPU against ONNX Runtime on the CPU."""
    from polygraphy.backend.common import BytesFromPath
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner
    from polygraphy.comparator import Comparator, CompareFunc

    if pooled.release.precision != "fp32":
        pytest.skip("the cast graph is compared with its plan by `build`, on golden samples")
    (tmp_path / "graphs").mkdir()
    graphs = write_graphs(pooled.bundle, tmp_path / "graphs")
    component = pooled.release.components[role]  # type: ignore[index]
    engine = EngineFromBytes(BytesFromPath(str(pooled.repository / component.model / "1" / PLAN)))()
    assert pooled.release.tensorrt is not None
    profiles = pooled.release.tensorrt.plans[role].profiles  # type: ignore[index]
    for index in range(len(profiles)):
        feed = [inputs_of(pooled, role, batch, index)]
        results = Comparator.run(
            [
                OnnxrtRunner(SessionFromOnnx(str(graphs[role]))),  # type: ignore[index]
                TrtRunner(engine, optimization_profile=index),
            ],
            data_loader=feed,
        )
        assert Comparator.compare_accuracy(
            results, compare_func=CompareFunc.simple(atol=1e-3, rtol=1e-3)
        )


def test_reduced_precision_stays_within_its_tolerance(pooled: Built) -> None:
    tolerance = TOLERANCES[pooled.release.precision]
    for stage in pooled.release.parity.stages:
        if stage.smallest_cosine is not None:
            assert stage.smallest_cosine >= tolerance.features_cosine


def test_sequence_heads_build_and_pass_parity(sequence: Built) -> None:
    assert sequence.release.tensorrt is not None
    assert len(sequence.release.tensorrt.plans["fusion_head"].profiles) == 2


def test_plan_runtime_takes_every_bucket(pooled: Built) -> None:
    assert pooled.release.tensorrt is not None
    profiles = pooled.release.tensorrt.plans["text_encoder"].profiles
    component = pooled.release.components["text_encoder"]
    runtime = PlanRuntime(pooled.repository / component.model / "1" / PLAN, profiles)
    for index in range(len(profiles)):
        answer = runtime(inputs_of(pooled, "text_encoder", 2, index))
        assert answer[contract.TEXT_FEATURES].shape[0] == 2


def test_triton_serves_the_plans(pooled: Built, server: Server, gpu: Gpu) -> None:
    pytorch = load_model(pooled.bundle)
    labels = pooled.bundle.manifest.labels
    image = pooled.bundle.golden[0].image
    with Client(server.grpc_url, app="known") as client:
        for length in (1, 14, 40, 200):
            text = " ".join(["apple", "tree"] * length)
            answer = client.classify(text=text, image=image, top_k=len(labels))
            found = {one.label: one.probability for one in answer.ranking}
            expected = pytorch.answer(text, image, [["text", "image"]]).values["text,image"]
            assert [found[label] for label in labels] == pytest.approx(
                expected.tolist(), abs=TOLERANCES[pooled.release.precision].probabilities
            )
    config = ModelControl(server.grpc_url).config("known_classify")
    capability = config.parameters[contract.PARAM_SERVER_COMPUTE_CAPABILITY].string_value
    assert capability == ".".join(map(str, gpu.compute_capability))
