"""What cannot be built is refused with its cause: by our checks where NVIDIA's are silent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tritium_builders.errors import CompileError
from tritium_builders.release import ProfileShape
from tritium_builders.tensorrt.plans import run_plan_worker
from tritium_builders.tensorrt.worker import PlanRequest

Profiles = list[dict[str, ProfileShape]]


def shape(least: list[int], opt: list[int], most: list[int]) -> ProfileShape:
    return ProfileShape(min=least, opt=opt, max=most)


def two_inputs(path: Path) -> Path:
    """`ids` and `mask`, both INT64 [batch, tokens], added and summed."""
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("ids", "mask")
    ]
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", "tokens"])
    nodes = [
        helper.make_node("Add", ["ids", "mask"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["out"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(nodes, "two", tensors, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_inputs(tmp_path_factory.mktemp("graph") / "two.onnx")


GOOD = {"ids": shape([1, 16], [4, 16], [8, 16]), "mask": shape([1, 16], [4, 16], [8, 16])}


def build(graph: Path, profiles: Profiles, folder: Path) -> int:
    request = PlanRequest(
        graph=graph, plan=folder / "x.plan", profiles=profiles, compute_capabilities=[(8, 6)]
    )
    return run_plan_worker(request, timeout_s=120).layers


def test_what_the_refusals_are_made_from_builds(graph: Path, tmp_path: Path) -> None:
    assert build(graph, [GOOD], tmp_path) >= 2


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        pytest.param(
            [],
            r"input ids has a dynamic axis, \[-1, -1\], and there is no profile",
            id="a dynamic axis without a profile",
        ),
        pytest.param(
            [GOOD, {"ids": GOOD["ids"]}],
            r"profile 1 has no shapes for input mask",
            id="a missing input",
        ),
        pytest.param(
            [{**GOOD, "mask": shape([8, 16], [4, 16], [8, 16])}],
            r"profile 0, input mask: axis 0 has min 8, opt 4, max 8; it needs 0 < min <= opt",
            id="min above opt",
        ),
        pytest.param(
            [{**GOOD, "input_ids": GOOD["ids"]}],
            r"profile 0 names input input_ids, and the network has \['ids', 'mask'\]",
            id="a wrong tensor name",
        ),
        pytest.param(
            [{**GOOD, "mask": shape([1, 16], [4, 16], [8, 32])}],
            r"profile 0: min, opt, max of the text length differ: ids \[16, 16, 16\], "
            r"mask \[16, 16, 32\]",
            id="maxima that differ, which NVIDIA's builder takes",
        ),
        pytest.param(
            [{**GOOD, "mask": shape([1], [4], [8])}],
            r"profile 0, input mask: min \[1\] has not the rank of \[-1, -1\]",
            id="a wrong rank",
        ),
    ],
)
def test_wrong_profiles_are_refused(
    graph: Path, profiles: Profiles, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CompileError, match=message):
        build(graph, profiles, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_operator_that_tensorrt_does_not_have_is_named(tmp_path: Path) -> None:
    tensors = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])]
    node = helper.make_node("Nonsense", ["x"], ["y"], name="the_node", domain="our.own")
    model = helper.make_model(
        helper.make_graph([node], "g", tensors, outputs),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("our.own", 1)],
    )
    path = tmp_path / "nonsense.onnx"
    onnx.save(model, str(path))
    with pytest.raises(CompileError, match=r"nonsense: TensorRT's parser refused .*the_node.*Nons"):
        build(path, [{"x": shape([1, 4], [1, 4], [2, 4])}], tmp_path)


def test_uint8_may_be_cast_and_nothing_else(tmp_path: Path) -> None:
    """Why the image encoder's graph turns pixels into floats before it transposes them."""
    tensors = [helper.make_tensor_value_info("x", TensorProto.UINT8, ["batch", 4, 3])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.UINT8, ["batch", 3, 4])]
    node = helper.make_node("Transpose", ["x"], ["y"], name="turn", perm=[0, 2, 1])
    model = helper.make_model(
        helper.make_graph([node], "g", tensors, outputs),
        opset_imports=[helper.make_opsetid("", 20)],
    )
    path = tmp_path / "uint8.onnx"
    onnx.save(model, str(path))
    with pytest.raises(CompileError, match=r"turn.*UInt8"):
        build(path, [{"x": shape([1, 4, 3], [1, 4, 3], [2, 4, 3])}], tmp_path)


@pytest.mark.parametrize("content", [b"", b"this is no graph" * 8])
def test_a_file_that_is_no_graph_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "text_encoder.onnx"
    path.write_bytes(content)
    with pytest.raises(CompileError, match=r"text_encoder: TensorRT's parser found no layers"):
        build(path, [GOOD], tmp_path)


def test_a_truncated_graph_is_refused(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    tensors = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", tensors, outputs, [weights]
    )
    data = helper.make_model(graph).SerializeToString()
    path = tmp_path / "head.onnx"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CompileError, match=r"head: TensorRT's parser refused .*DESERIALIZE_FAILED"):
        build(path, [GOOD], tmp_path)


def test_a_build_that_takes_too_long_is_given_up(graph: Path, tmp_path: Path) -> None:
    request = PlanRequest(
        graph=graph, plan=tmp_path / "x.plan", profiles=[GOOD], compute_capabilities=[(8, 6)]
    )
    with pytest.raises(CompileError, match=r"two: TensorRT did not finish within 0.01 s"):
        run_plan_worker(request, timeout_s=0.01)


def test_a_worker_that_dies_is_reported(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "polygraphy").mkdir()
    (tmp_path / "polygraphy" / "__init__.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    request = PlanRequest(
        graph=graph, plan=tmp_path / "x.plan", profiles=[GOOD], compute_capabilities=[(8, 6)]
    )
    with pytest.raises(CompileError, match=r"two: TensorRT's process ended with status -6"):
        run_plan_worker(request, timeout_s=60)
