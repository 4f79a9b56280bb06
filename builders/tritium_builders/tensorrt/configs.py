"""The Triton config of a component that TensorRT runs.

Source: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md
and https://github.com/triton-inference-server/tensorrt_backend
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tritonclient.grpc import model_config_pb2 as pb

from tritium_builders.configs import ComponentGraph, let_requests_queue
from tritium_builders.tensorrt.options import TensorRTOptions
from tritium_builders.tensorrt.profiles import Profile

PLAN = "model.plan"
"""The file that Triton's tensorrt backend opens."""
RECORD = "plan.json"
"""Beside the plan: how it was built. A later release that needs the same plan takes it."""


def plan_config(
    graph: ComponentGraph, profiles: Sequence[Profile], options: TensorRTOptions
) -> pb.ModelConfig:
    """Configure a TensorRT component; the name is set when its content is known.

    Args:
        graph: Its tensors.
        profiles: Its plan's profiles, by index.
        options: How it is served.
    """
    config = pb.ModelConfig(
        backend="tensorrt", default_model_filename=PLAN, max_batch_size=options.max_batch
    )
    for tensor in graph.inputs:
        config.input.append(
            pb.ModelInput(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        )
    for tensor in graph.outputs:
        config.output.append(
            pb.ModelOutput(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        )
    # Requests of one bucket have one shape, so they share batches.
    let_requests_queue(config, graph.role)
    config.instance_group.append(
        pb.ModelInstanceGroup(
            kind=pb.ModelInstanceGroup.KIND_GPU,
            count=options.instances,
            profile=[str(index) for index in range(len(profiles))],
        )
    )
    if options.cuda_graphs or options.output_copy_stream:
        cuda = config.optimization.cuda
        cuda.graphs = options.cuda_graphs
        cuda.output_copy_stream = options.output_copy_stream
        if options.cuda_graphs:
            for batch, profile in _sizes(profiles, options.max_batch):
                spec = cuda.graph_spec.add(batch_size=batch)
                for name, shape in profile.items():
                    spec.input[name].dim.extend(shape.max[1:])
    types = {tensor.name: tensor.data_type for tensor in graph.inputs}
    for batch, profile in _sizes(profiles, options.max_batch):
        first = next(iter(profile.values()))
        length = f"_tokens_{first.max[1]}" if len(profiles) > 1 else ""
        warmup = config.model_warmup.add(name=f"batch_{batch}{length}", batch_size=batch)
        for name, shape in profile.items():
            # Zeros are valid everywhere: token 0 is in every vocabulary, and an item that is all
            # padding costs what any other costs.
            warmup.inputs[name].data_type = types[name]
            warmup.inputs[name].dims.extend(shape.max[1:])
            warmup.inputs[name].zero_data = True
    return config


def batch_sizes(most: int) -> list[int]:
    """Powers of two up to the largest batch, and the largest batch itself.

    >>> batch_sizes(24)
    [1, 2, 4, 8, 16, 24]
    """
    sizes = [1 << power for power in range(most.bit_length()) if 1 << power <= most]
    return sizes if sizes[-1] == most else [*sizes, most]


def _sizes(profiles: Sequence[Profile], most: int) -> Iterator[tuple[int, Profile]]:
    for profile in profiles:
        for batch in batch_sizes(most):
            yield batch, profile
