"""Cast one component's graph, keeping in higher precision what its answers need.

fp16 and bf16: NVIDIA ModelOpt AutoCast, from the fewest fp32 islands (values that would overflow)
to more of them, until the calibration samples' answers are close enough to fp32's. int8: ModelOpt
post-training quantisation, then islands around the nodes that lose most, then AutoCast to fp16 for
all that is not quantised.

Runs in the process of `worker.py`: ModelOpt patches ONNX Runtime when it is imported, and talks.
Source: https://nvidia.github.io/Model-Optimizer/guides/_onnx_quantization.html, and 8_autocast.html
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from tritium_builders.bundle import file_entry
from tritium_builders.precision.islands import (
    fewest_islands,
    local_errors,
    quantised_nodes,
    without,
)
from tritium_builders.precision.reference import ReferenceRuntime, distance
from tritium_builders.release import ComponentCast, Precision
from tritium_builders.servables.engine import Tensors

LARGEST_FP16 = 65504.0
RANGE_SAMPLES = 16
"""Calibration samples whose values AutoCast looks at."""
ERROR_SAMPLES = 8
"""Calibration samples that order the quantised nodes by what they lose."""

REDUCTIONS = (
    "LayerNormalization", "InstanceNormalization", "GroupNormalization", "ReduceMean", "ReduceSum",
    "Softmax", "LogSoftmax", "Pow", "Sqrt", "Exp", "Erf", "Reciprocal",
)  # fmt: skip
"""Operators whose sums and powers lose most in 10 or 7 bits of mantissa."""
ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Relu", "Clip", "Gelu", "Tanh", "Sigmoid")
"""With these in fp32, only products with weights are rounded."""


@dataclass(frozen=True)
class Bound:
    """How far a component's output may be from fp32's, on fp32's inputs."""

    cosine: float
    relative: float

    def holds(self, cosine: float, relative: float) -> bool:
        """Whether the measured figures are within it; a NaN never is."""
        return cosine >= self.cosine and relative <= self.relative


@dataclass(frozen=True)
class _Cast:
    """A cast graph with its figures on the calibration samples."""

    model: onnx.ModelProto
    precision: Precision
    cosine: float
    relative: float


@dataclass(frozen=True)
class Level:
    """What AutoCast keeps in fp32."""

    data_max: float
    """Nodes that read or write larger values."""
    op_types: tuple[str, ...] = ()


LEVELS: dict[str, tuple[Level, ...]] = {
    # A quarter of the largest: calibration samples are not the largest that will ever come.
    "fp16": (
        Level(LARGEST_FP16 / 4),
        Level(512.0),
        Level(512.0, REDUCTIONS),
        Level(32.0, REDUCTIONS + ELEMENTWISE),
    ),
    # bfloat16 has fp32's range; what it lacks is mantissa.
    "bf16": (
        Level(float("inf")),
        Level(float("inf"), REDUCTIONS),
        Level(float("inf"), REDUCTIONS + ELEMENTWISE),
    ),
}


class NotCloseEnoughError(Exception):
    """No cast of a graph answers closely enough; carries the best figures that were seen."""

    def __init__(self, cosine: float, relative: float) -> None:
        super().__init__(f"cosine {cosine:.6g}, largest relative difference {relative:.4g}")
        self.cosine = cosine
        self.relative = relative


def cast_graph(
    graph: Path,
    out: Path,
    precision: Precision,
    samples: Sequence[Tensors],
    bound: Bound,
    *,
    rest: Precision = "fp16",
) -> ComponentCast:
    """Write a graph in another precision.

    Args:
        graph: The fp32 .onnx file.
        out: Where the cast graph goes; inputs and outputs keep their types.
        precision: What to cast to.
        samples: The component's inputs for the calibration samples, one request each.
        bound: What its answers must keep.
        rest: For int8: what is computed in where nothing is quantised, fp16 or fp32.

    Raises:
        NotCloseEnoughError: when no level of fp32 islands is enough.
    """
    expected = ReferenceRuntime(graph).run_all(samples)
    if precision == "int8":
        cast, islands = _quantise(graph, samples, expected, bound, rest)
    else:
        cast = _autocast(graph, precision, samples, expected, bound)
        islands = _wide_nodes(cast.model)
    onnx.save(cast.model, str(out))
    entry = file_entry(out)
    return ComponentCast(
        precision=cast.precision,
        onnx_bytes=entry.bytes,
        onnx_sha256=entry.sha256,
        nodes=len(cast.model.graph.node),
        islands=islands,
        cosine=cast.cosine,
        largest_difference=cast.relative,
    )


def describe_fp32(graph: Path) -> ComponentCast:
    """Describe a graph that stays as it is."""
    entry = file_entry(graph)
    return ComponentCast(
        precision="fp32",
        onnx_bytes=entry.bytes,
        onnx_sha256=entry.sha256,
        nodes=len(onnx.load(str(graph), load_external_data=False).graph.node),
    )


def _autocast(
    graph: Path,
    precision: Precision,
    samples: Sequence[Tensors],
    expected: Sequence[Tensors],
    bound: Bound,
) -> _Cast:
    """Cast with the fewest fp32 islands that keep the bound."""
    best = (-1.0, float("inf"))
    for level in LEVELS[precision]:
        model = run_autocast(graph, precision, samples, level)
        found = distance(expected, ReferenceRuntime(model).run_all(samples))
        if bound.holds(*found):
            return _Cast(model, precision, *found)
        best = max(best, found, key=lambda figures: figures[0])
    raise NotCloseEnoughError(*best)


def run_autocast(
    graph: Path, precision: str, samples: Sequence[Tensors], level: Level
) -> onnx.ModelProto:
    """Run ModelOpt AutoCast once; inputs and outputs keep their types."""
    from modelopt.onnx.autocast import convert_to_mixed_precision

    with tempfile.TemporaryDirectory(prefix="tritium-ranges-") as folder:
        for index, sample in enumerate(samples[:RANGE_SAMPLES]):
            np.savez(Path(folder) / f"{index:04}.npz", **sample)
        model: onnx.ModelProto = convert_to_mixed_precision(
            str(graph),
            low_precision_type=precision,
            keep_io_types=True,
            data_max=level.data_max,
            op_types_to_exclude=list(level.op_types),
            calibration_data=folder,
        )
    return model


def _wide_nodes(model: onnx.ModelProto) -> list[str]:
    """Operators that still compute in fp32, with their counts, for people to read."""
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    wide = Counter(
        node.op_type
        for node in model.graph.node
        if node.op_type not in ("Cast", "Constant")
        and any(types.get(name) == TensorProto.FLOAT for name in node.output)
    )
    return [f"{count} {name}" for name, count in wide.most_common()]


def _quantise(
    graph: Path,
    samples: Sequence[Tensors],
    expected: Sequence[Tensors],
    bound: Bound,
    rest: Precision,
) -> tuple[_Cast, list[str]]:
    """Quantise the weighted nodes that allow it, and cast the others to `rest`."""

    def finish(model: onnx.ModelProto) -> _Cast:
        if rest == "fp32":
            found = distance(expected, ReferenceRuntime(model).run_all(samples))
            if not bound.holds(*found):
                raise NotCloseEnoughError(*found)
            return _Cast(model, rest, *found)
        with tempfile.TemporaryDirectory(prefix="tritium-int8-") as folder:
            path = Path(folder) / graph.name
            onnx.save(model, str(path))
            return _autocast(path, rest, samples, expected, bound)

    weighted = weighted_nodes(onnx.load(str(graph)))
    quantised = run_quantisation(graph, samples, weighted)
    # ModelOpt also feeds sums that share an input with a weighted node from its DequantizeLinear.
    units = [name for name in quantised_nodes(quantised) if name in weighted]
    quantised = without(quantised, set(quantised_nodes(quantised)) - set(units))
    if not units:
        return finish(onnx.load(str(graph))), ["no node that int8 would make faster"]
    errors = local_errors(quantised, samples[:ERROR_SAMPLES])
    ordered = sorted(units, key=lambda name: errors[name], reverse=True)

    def passes(names: Sequence[str]) -> bool:
        runtime = ReferenceRuntime(without(quantised, names))
        return bound.holds(*distance(expected, runtime.run_all(samples)))

    found = fewest_islands(ordered, passes)
    islands = ordered if found is None else found
    cast = finish(without(quantised, islands))
    kept = len(units) - len(islands)
    said = f"{kept} of {len(units)} weighted nodes in int8"
    reached: Precision = "int8" if kept else rest
    return replace(cast, precision=reached), [said, *(f"{rest}: {name}" for name in islands)]


def weighted_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the MatMul, Gemm and Conv nodes that multiply with weights.

    The products inside attention multiply two activations; quantising them gains little and, in
    BERT-like encoders, costs most.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:  # weights may be transposed or cast before they are used
        if node.input and constants.issuperset(node.input):
            constants.update(node.output)
    return [
        node.name
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm", "Conv") and node.input[1] in constants
    ]


def run_quantisation(
    graph: Path, samples: Sequence[Tensors], nodes: Sequence[str]
) -> onnx.ModelProto:
    """Run ModelOpt post-training quantisation once: explicit QuantizeLinear, DequantizeLinear.

    Args:
        graph: The fp32 .onnx file.
        samples: The component's inputs for the calibration samples.
        nodes: Names of the nodes to quantise.
    """
    if not nodes:
        return onnx.load(str(graph))
    from modelopt.onnx.quantization import quantize

    with tempfile.TemporaryDirectory(prefix="tritium-int8-") as folder:
        # A copy: ModelOpt writes files of its own beside what it reads.
        source, out = Path(folder) / graph.name, Path(folder) / "quantised.onnx"
        source.write_bytes(graph.read_bytes())
        quantize(
            str(source),
            quantize_mode="int8",
            calibration_method="entropy",
            calibration_data_reader=_Reader(samples),
            calibration_eps=["cpu"],
            op_types_to_quantize=["MatMul", "Gemm", "Conv"],
            nodes_to_quantize=[f"^{re.escape(name)}$" for name in nodes],
            disable_mha_qdq=True,
            high_precision_dtype="fp32",
            output_path=str(out),
            log_level="ERROR",
        )
        return onnx.load(str(out))


class _Reader:
    """ONNX Runtime's CalibrationDataReader over samples of unequal lengths."""

    def __init__(self, samples: Sequence[Tensors]) -> None:
        self._samples = samples
        self._next = partial(next, iter(samples), None)

    def get_next(self) -> Tensors | None:
        """The next sample, or None at the end."""
        found: Tensors | None = self._next()
        return found

    def get_first(self) -> Tensors:
        """One sample, for its shapes."""
        return self._samples[0]

    def rewind(self) -> None:
        """Begin again."""
        self._next = partial(next, iter(self._samples), None)
