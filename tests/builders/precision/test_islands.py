"""Which quantised nodes are given back: the worst ones, and no more than it takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tritium_builders.precision.islands import (
    fewest_islands,
    local_errors,
    quantised_nodes,
    without,
)
from tritium_builders.precision.reference import ReferenceRuntime


def two_layers(fine: float, coarse: float) -> onnx.ModelProto:
    """Two products whose inputs are quantised, one finely and one coarsely."""
    generator = np.random.default_rng(3)
    weights = [
        numpy_helper.from_array(generator.normal(size=(8, 8)).astype(np.float32), name)
        for name in ("w1", "w2")
    ]
    scales = [
        numpy_helper.from_array(np.array(value, np.float32), name)
        for name, value in (("fine", fine), ("coarse", coarse))
    ]
    zero = numpy_helper.from_array(np.array(0, np.int8), "zero")
    nodes = []
    for number, (source, scale) in enumerate((("x", "fine"), ("h", "coarse")), start=1):
        nodes += [
            helper.make_node("QuantizeLinear", [source, scale, "zero"], [f"q{number}"]),
            helper.make_node("DequantizeLinear", [f"q{number}", scale, "zero"], [f"d{number}"]),
            helper.make_node(
                "MatMul", [f"d{number}", f"w{number}"], ["h" if number == 1 else "y"],
                name=f"layer{number}",
            ),
        ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
        [*weights, *scales, zero],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    return model


SAMPLES = [
    {"x": np.random.default_rng(seed).normal(size=(1, 8)).astype(np.float32)} for seed in range(4)
]


def test_the_coarse_node_loses_most() -> None:
    errors = local_errors(two_layers(fine=0.02, coarse=2.0), SAMPLES)
    assert list(errors) == ["layer1", "layer2"]
    assert errors["layer1"] < 0.05 < 0.1 < errors["layer2"]


def test_a_node_that_is_given_back_computes_exactly() -> None:
    model = two_layers(fine=0.02, coarse=2.0)
    assert quantised_nodes(model) == ["layer1", "layer2"]
    exact = without(model, ["layer1", "layer2"])
    assert quantised_nodes(exact) == []
    assert [node.op_type for node in exact.graph.node] == ["MatMul", "MatMul"]
    weights = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name.startswith("w")
    }
    x = SAMPLES[0]["x"]
    (found,) = ReferenceRuntime(exact)({"x": x}).values()
    np.testing.assert_allclose(found, x @ weights["w1"] @ weights["w2"], rtol=1e-4, atol=1e-4)
    assert quantised_nodes(without(model, ["layer2"])) == ["layer1"]
    assert quantised_nodes(model) == ["layer1", "layer2"], "the graph itself was changed"


@given(st.integers(1, 40), st.data())
def test_no_more_nodes_are_given_back_than_it_takes(count: int, data: st.DataObject) -> None:
    names = [f"node{index}" for index in range(count)]
    needed = data.draw(st.integers(0, count))
    asked = []

    def passes(given_back: Sequence[str]) -> bool:
        asked.append(len(given_back))
        return len(given_back) >= needed

    assert list(fewest_islands(names, passes) or ()) == names[:needed]
    assert len(asked) <= 2 + count.bit_length()


def test_none_is_enough_when_none_helps() -> None:
    assert fewest_islands(["a", "b"], lambda _: False) is None


@pytest.mark.parametrize("needed", [0, 1, 2])
def test_the_order_is_kept(needed: int) -> None:
    found = fewest_islands(["worst", "bad"], lambda given_back: len(given_back) >= needed)
    assert list(found or ()) == ["worst", "bad"][:needed]
