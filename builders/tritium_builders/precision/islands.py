"""Quantised nodes that stay in higher precision because int8 costs too much there.

A quantised node's inputs come through QuantizeLinear and DequantizeLinear; taking these two away
gives the node back its precision. Which nodes to give back is decided by what quantising each of
them alone does to its own output, and how many by what the component's answers need.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import onnx

from tritium_builders.precision.reference import ReferenceRuntime
from tritium_builders.servables.engine import Tensors

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def quantised_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that read a DequantizeLinear, in the graph's order."""
    dequantised = {node.output[0] for node in model.graph.node if node.op_type == DEQUANTIZE}
    return [
        node.name
        for node in model.graph.node
        if node.op_type != QUANTIZE and any(name in dequantised for name in node.input)
    ]


def without(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """Give these nodes their precision back."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    sources = _sources(changed)
    for node in changed.graph.node:
        if node.name in names:
            for position, name in enumerate(node.input):
                node.input[position] = sources.get(name, name)
    _drop_unread(changed)
    return changed


def _sources(model: onnx.ModelProto) -> dict[str, str]:
    """What a DequantizeLinear gives -> what its QuantizeLinear took."""
    quantised = {
        node.output[0]: node.input[0] for node in model.graph.node if node.op_type == QUANTIZE
    }
    return {
        node.output[0]: quantised[node.input[0]]
        for node in model.graph.node
        if node.op_type == DEQUANTIZE and node.input[0] in quantised
    }


def _drop_unread(model: onnx.ModelProto) -> None:
    """Remove quantise and dequantise nodes that nobody reads any more."""
    while True:
        read = {name for node in model.graph.node for name in node.input}
        read |= {output.name for output in model.graph.output}
        kept = [
            node
            for node in model.graph.node
            if node.op_type not in (QUANTIZE, DEQUANTIZE) or node.output[0] in read
        ]
        if len(kept) == len(model.graph.node):
            return
        del model.graph.node[:]
        model.graph.node.extend(kept)


def local_errors(model: onnx.ModelProto, samples: Sequence[Tensors]) -> dict[str, float]:
    """What quantising each node alone does to that node's output.

    One graph answers for all of them: in it every quantised node has a twin that is not
    quantised, and all of the rest is fed by the twins.

    Args:
        model: From ModelOpt, with QuantizeLinear and DequantizeLinear.
        samples: The component's inputs, a few are enough.

    Returns:
        Node -> the largest relative error (L2) over the samples.
    """
    names = quantised_nodes(model)
    paired = onnx.ModelProto()
    paired.CopyFrom(model)
    sources = _sources(paired)
    pairs = {}
    twins = []
    for node in paired.graph.node:
        if node.name not in names:
            continue
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        exact = node.output[0]
        twin.name, twin.output[0] = f"{node.name}__quantised", f"{exact}__quantised"
        for position, name in enumerate(node.input):
            node.input[position] = sources.get(name, name)
        twins.append(twin)
        pairs[node.name] = (exact, twin.output[0])
    paired.graph.node.extend(twins)
    _sort(paired)
    del paired.graph.output[:]
    wanted = dict.fromkeys(name for pair in pairs.values() for name in pair)
    paired.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    runtime = ReferenceRuntime(paired)
    errors = dict.fromkeys(names, 0.0)
    for sample in samples:
        found = runtime(sample)
        for name, (exact, quantised) in pairs.items():
            size = float(np.linalg.norm(found[exact])) or 1.0
            error = float(np.linalg.norm(found[exact] - found[quantised])) / size
            errors[name] = max(errors[name], error)
    return errors


def _sort(model: onnx.ModelProto) -> None:
    """Put nodes behind what they read."""
    known = {tensor.name for tensor in model.graph.initializer}
    known |= {tensor.name for tensor in model.graph.input} | {""}
    waiting, ordered = list(model.graph.node), []
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        if not ready:
            raise ValueError("the graph has a cycle")
        for node in ready:
            known.update(node.output)
        ordered += ready
        waiting = [node for node in waiting if not known.issuperset(node.output)]
    del model.graph.node[:]
    model.graph.node.extend(ordered)


def fewest_islands(
    worst_first: Sequence[str], passes: Callable[[Sequence[str]], bool]
) -> Sequence[str] | None:
    """Find how many of the worst nodes must be given back.

    Args:
        worst_first: Nodes by falling error.
        passes: Whether the graph is good enough without these nodes' quantisation.

    Returns:
        The shortest beginning of `worst_first` that passes, found by bisection; None when not
        even giving back all of them passes.
    """
    if passes(()):
        return ()
    if not passes(worst_first):
        return None
    too_few, enough = 0, len(worst_first)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if passes(worst_first[:middle]):
            enough = middle
        else:
            too_few = middle
    return worst_first[:enough]
