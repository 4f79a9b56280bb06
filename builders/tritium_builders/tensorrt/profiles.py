"""Optimisation profiles: which shapes a plan takes.

A component that sees the text's length has one profile for each bucket, with min = opt = max
tokens, so that TensorRT chooses kernels for exactly that length; its batch goes from 1 to
`max_batch`. Every other component has one profile, over the batch alone.

Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-dynamic-shapes.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tritium_builders.configs import ComponentGraph
from tritium_builders.errors import CompileError
from tritium_builders.release import ProfileShape

Profile = Mapping[str, ProfileShape]
"""Input -> the shapes that it may have."""


def component_profiles(
    graph: ComponentGraph, buckets: Sequence[int], max_batch: int
) -> list[dict[str, ProfileShape]]:
    """The profiles of one component, by index.

    Args:
        graph: Its tensors.
        buckets: Text lengths, ascending.
        max_batch: Requests that one execution may answer.
    """
    has_tokens = any(tensor.ragged for tensor in graph.inputs)
    lengths: Sequence[int | None] = buckets if has_tokens else [None]
    opt = max(1, max_batch // 2)  # under load, batches gather to about half of the largest
    return [
        {
            tensor.name: _shape(
                tuple(length or size if size == -1 else size for size in tensor.dims),
                opt,
                max_batch,
            )
            for tensor in graph.inputs
        }
        for length in lengths
    ]


def _shape(item: Sequence[int], opt: int, most: int) -> ProfileShape:
    return ProfileShape(min=[1, *item], opt=[opt, *item], max=[most, *item])


def check_profiles(inputs: Mapping[str, Sequence[int]], profiles: Sequence[Profile]) -> None:
    """Check profiles against a parsed network, before TensorRT builds for minutes.

    NVIDIA's builder does not notice everything: a profile in which the maxima of ids and mask
    differ builds, and fails at the first request.

    Args:
        inputs: The network's inputs -> their shapes, -1 where the size is free.
        profiles: By index.

    Raises:
        CompileError: naming profile, input and axis.
    """
    dynamic = [name for name, shape in inputs.items() if -1 in shape]
    if dynamic and not profiles:
        raise CompileError(
            f"input {dynamic[0]} has a dynamic axis, {list(inputs[dynamic[0]])}, and there is no "
            "profile; give one for each text length"
        )
    for index, profile in enumerate(profiles):
        for name in profile:
            if name not in inputs:
                raise CompileError(
                    f"profile {index} names input {name}, and the network has {sorted(inputs)}"
                )
        for name, shape in inputs.items():
            if name not in profile:
                raise CompileError(f"profile {index} has no shapes for input {name}")
            _check_input(index, name, shape, profile[name])
        _check_agreement(index, inputs, profile)


def _check_input(index: int, name: str, shape: Sequence[int], given: ProfileShape) -> None:
    where = f"profile {index}, input {name}"
    for kind in ("min", "opt", "max"):
        sizes = getattr(given, kind)
        if len(sizes) != len(shape):
            raise CompileError(f"{where}: {kind} {sizes} has not the rank of {list(shape)}")
        for axis, (fixed, size) in enumerate(zip(shape, sizes, strict=True)):
            if fixed not in (-1, size):
                raise CompileError(
                    f"{where}: {kind} {sizes} differs from the network's {list(shape)} "
                    f"in axis {axis}"
                )
    for axis, (least, opt, most) in enumerate(zip(given.min, given.opt, given.max, strict=True)):
        if not 0 < least <= opt <= most:
            raise CompileError(
                f"{where}: axis {axis} has min {least}, opt {opt}, max {most}; "
                "it needs 0 < min <= opt <= max"
            )


def _check_agreement(index: int, inputs: Mapping[str, Sequence[int]], profile: Profile) -> None:
    """Inputs of one request have one batch size, and those over tokens one length."""
    for axis in (0, 1):
        sizes = {
            name: tuple(getattr(profile[name], kind)[axis] for kind in ("min", "opt", "max"))
            for name, shape in inputs.items()
            if len(shape) > axis and shape[axis] == -1
        }
        if len(set(sizes.values())) > 1:
            what = ("batch", "text length")[axis]
            found = ", ".join(f"{name} {list(values)}" for name, values in sizes.items())
            raise CompileError(f"profile {index}: min, opt, max of the {what} differ: {found}")


def covers(profile: Profile, shapes: Mapping[str, Sequence[int]]) -> bool:
    """Whether a profile takes inputs of these shapes.

    Args:
        profile: With shapes for each of the inputs.
        shapes: Input -> its shape, batch first.
    """
    return all(
        len(shape) == len(profile[name].max)
        and all(
            least <= size <= most
            for least, size, most in zip(profile[name].min, shape, profile[name].max, strict=True)
        )
        for name, shape in shapes.items()
    )
