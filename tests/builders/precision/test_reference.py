"""The numeric reference: bfloat16 as tensor cores compute it, and int8 without saturation."""

from __future__ import annotations

import math
from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tritium_builders.errors import CompileError
from tritium_builders.precision.reference import ReferenceRuntime, distance


def model_of(
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto],
    features: int,
    out_features: int,
    opset: int = 22,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", features])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", out_features])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 10
    return model


def bfloat16_layer(
    weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]
) -> onnx.ModelProto:
    """fp32 in, MatMul + Add + Relu in bfloat16, fp32 out."""
    weights = [
        numpy_helper.from_array(weight.astype(ml_dtypes.bfloat16), "w"),
        numpy_helper.from_array(bias.astype(ml_dtypes.bfloat16), "b"),
    ]
    nodes = [
        helper.make_node("Cast", ["x"], ["narrow"], to=TensorProto.BFLOAT16),
        helper.make_node("MatMul", ["narrow", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["positive"]),
        helper.make_node("Cast", ["positive"], ["y"], to=TensorProto.FLOAT),
    ]
    return model_of(nodes, weights, *weight.shape)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 24))
@settings(max_examples=25, deadline=None)
def test_bfloat16_answers_as_pytorch_does(seed: int, rows: int, features: int) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=(features, 5)).astype(np.float32)
    bias = generator.normal(size=5).astype(np.float32)
    x = generator.normal(size=(rows, features)).astype(np.float32) * 3
    narrow = [torch.from_numpy(values).bfloat16() for values in (x, weight, bias)]
    expected = ((narrow[0] @ narrow[1]) + narrow[2]).relu().float().numpy()
    (found,) = ReferenceRuntime(bfloat16_layer(weight, bias))({"x": x}).values()
    # One unit in the last place of 8 bits, where the order of a sum decides how it rounds.
    np.testing.assert_allclose(found, expected, rtol=2**-7, atol=2**-7)


def test_bfloat16_is_rounded_after_every_node() -> None:
    """256 + 1 is 256 in bfloat16; fp32 would remember the 1."""
    weight, bias = np.eye(1, dtype=np.float32) * 256, np.array([1.0], np.float32)
    found = ReferenceRuntime(bfloat16_layer(weight, bias))({"x": np.ones((1, 1), np.float32)})
    assert found["y"].item() == 256


def test_fp16_overflows() -> None:
    """ONNX Runtime alone computes these two sums in fp32, and answers 10,000."""
    large = numpy_helper.from_array(np.array([60_000.0], np.float16), "large")
    nodes = [
        helper.make_node("Cast", ["x"], ["narrow"], to=TensorProto.FLOAT16),
        helper.make_node("Add", ["narrow", "large"], ["sum"]),
        helper.make_node("Sub", ["sum", "large"], ["rest"]),
        helper.make_node("Cast", ["rest"], ["y"], to=TensorProto.FLOAT),
    ]
    runtime = ReferenceRuntime(model_of(nodes, [large], 1, 1, opset=20))
    assert np.isinf(runtime({"x": np.full((1, 1), 10_000, np.float32)})["y"]).all()
    assert runtime({"x": np.full((1, 1), 1_024, np.float32)})["y"].item() == 1_024


def test_int8_products_do_not_saturate() -> None:
    """ONNX Runtime's fused kernels add pairs of products in 16 bits on CPUs without VNNI."""
    features = 64
    scale = numpy_helper.from_array(np.array(1.0, np.float32), "scale")
    zero = numpy_helper.from_array(np.array(0, np.int8), "zero")
    weight = numpy_helper.from_array(np.full((features, 1), 127, np.int8), "w")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["quantised"]),
        helper.make_node("DequantizeLinear", ["quantised", "scale", "zero"], ["back"]),
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["weight"]),
        helper.make_node("MatMul", ["back", "weight"], ["y"]),
    ]
    model = model_of(nodes, [scale, zero, weight], features, 1, opset=20)
    found = ReferenceRuntime(model)({"x": np.full((1, features), 127, np.float32)})
    assert found["y"].item() == 127 * 127 * features


def test_a_file_that_is_no_graph_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "text_encoder.onnx"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(CompileError, match="text_encoder: ONNX Runtime refused the graph"):
        ReferenceRuntime(path)


def test_the_distance_of_equal_answers_is_none() -> None:
    answers = [{"y": np.array([[1.0, -2.0]])}, {"y": np.array([[0.0, 0.0]])}]
    assert distance(answers, answers) == pytest.approx((1.0, 0.0))


def test_the_worst_sample_counts() -> None:
    expected = [{"y": np.array([1.0, 0.0])}, {"y": np.array([4.0, 3.0])}]
    actual = [{"y": np.array([1.0, 0.0])}, {"y": np.array([3.0, 4.0])}]
    cosine, relative = distance(expected, actual)
    assert math.isclose(cosine, 24 / 25)
    assert math.isclose(relative, 1 / 4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_overflow_is_the_worst_of_all(bad: float) -> None:
    assert distance([{"y": np.array([1.0])}], [{"y": np.array([bad])}]) == (-1.0, float("inf"))
