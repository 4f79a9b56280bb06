"""ONNX Runtime on the CPU as the numeric reference for a cast graph.

Two things keep it honest. Quantised nodes run as QuantizeLinear, DequantizeLinear and the fp32
node: fused into int8 kernels they saturate on CPUs without VNNI, and cosines of 0.95 become 0.68.
And fp16 and bfloat16, for which ONNX Runtime has few CPU kernels or none, are computed as tensor
cores do: products and sums in fp32, every result rounded. Left to itself, ONNX Runtime computes
fp16 in fp32 from end to end and hides what would overflow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tritium_builders.errors import CompileError
from tritium_builders.numerics import Array, cosine_similarity, relative_difference
from tritium_builders.servables.engine import Tensors

NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


class ReferenceRuntime:
    """Runs a graph of any precision on the CPU.

    Args:
        graph: The .onnx file, or the graph itself.
        threads: 0 for all that this process may use.

    Raises:
        CompileError: when the file is no graph that ONNX Runtime runs.
    """

    def __init__(self, graph: Path | onnx.ModelProto, threads: int = 0) -> None:
        name = graph.stem if isinstance(graph, Path) else graph.graph.name
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        # Nodes as they are written: the higher levels fuse some, and ENABLE_ALL has crashed on
        # fp16 graphs (ONNX Runtime 1.31).
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        try:
            model = onnx.load(str(graph)) if isinstance(graph, Path) else graph
            if _is_narrow(model):
                model = round_every_result(model)
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # protobuf's and ONNX Runtime's errors share no base
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise CompileError(f"{name}: ONNX Runtime refused the graph: {lines[0]}") from error
        self.outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, inputs: Tensors) -> Tensors:
        """Run one batch: inputs by name to outputs by name."""
        return dict(zip(self.outputs, self._session.run(self.outputs, inputs), strict=True))

    def run_all(self, requests: Sequence[Tensors]) -> list[Tensors]:
        """Run batches one by one."""
        return [self(request) for request in requests]


def _is_narrow(model: onnx.ModelProto) -> bool:
    return any(tensor.data_type in NARROW for tensor in model.graph.initializer) or any(
        attribute.name == "to" and attribute.i in NARROW
        for node in model.graph.node
        if node.op_type == "Cast"
        for attribute in node.attribute
    )


def round_every_result(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite a graph with fp16 or bfloat16 nodes so that fp32 kernels compute it.

    Every node that gives a narrow type computes in fp32, and a cast to that type and back rounds
    what it gives; what is too large for it becomes infinite.

    Args:
        model: With narrow tensors between fp32 inputs and outputs.

    Returns:
        A graph with the same inputs, outputs and, but for the order of sums, the same answers.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(model)
    graph = rewritten.graph
    del graph.value_info[:]
    for initializer in graph.initializer:
        if initializer.data_type in NARROW:
            initializer.CopyFrom(_widen(initializer))
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        narrow = [name for name in node.output if types.get(name) in NARROW]
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i in NARROW:
                attribute.i = TensorProto.FLOAT
            elif attribute.HasField("t") and attribute.t.data_type in NARROW:
                attribute.t.CopyFrom(_widen(attribute.t))
        graph.node.append(node)
        added = graph.node[-1]
        for name in narrow:
            wide = f"{name}__wide"
            added.output[list(added.output).index(name)] = wide
            graph.node.append(helper.make_node("Cast", [wide], [f"{name}__narrow"], to=types[name]))
            graph.node.append(
                helper.make_node("Cast", [f"{name}__narrow"], [name], to=TensorProto.FLOAT)
            )
    return rewritten


def _widen(tensor: onnx.TensorProto) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor).astype(np.float32)
    return numpy_helper.from_array(values, tensor.name)


def distance(
    expected: Sequence[Mapping[str, Array]], actual: Sequence[Mapping[str, Array]]
) -> tuple[float, float]:
    """How far answers are from fp32's.

    Args:
        expected: By fp32, output name -> values, one item for each sample.
        actual: By the cast graph, likewise.

    Returns:
        The smallest cosine of any output, and the largest difference relative to that output's
        largest value. A NaN gives (-1, infinity).
    """
    smallest, largest = 1.0, 0.0
    for want, got in zip(expected, actual, strict=True):
        for name, values in want.items():
            if not np.isfinite(got[name]).all():
                return -1.0, float("inf")
            smallest = min(smallest, cosine_similarity(values, got[name]))
            largest = max(largest, relative_difference(values, got[name]))
    return smallest, largest
