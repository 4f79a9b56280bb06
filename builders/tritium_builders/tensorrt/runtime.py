"""Run a plan on the GPU, in process: how the parity gate sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tritium_builders.errors import CompileError
from tritium_builders.servables.engine import Tensors
from tritium_builders.tensorrt.profiles import Profile, covers


class PlanRuntime:
    """A plan with one execution context for each profile.

    Args:
        plan: The file.
        profiles: What the plan was built with, by index.

    Raises:
        CompileError: when TensorRT does not load the plan.
    """

    def __init__(self, plan: Path, profiles: Sequence[Profile]) -> None:
        from polygraphy.backend.common import BytesFromPath
        from polygraphy.backend.trt import EngineFromBytes, TrtRunner

        self._profiles = profiles
        engine = EngineFromBytes(BytesFromPath(str(plan)))()
        if engine is None:
            raise CompileError(f"{plan}: TensorRT does not load this plan")
        self._runners: list[Any] = [
            TrtRunner(engine, optimization_profile=index) for index in range(len(profiles))
        ]
        for runner in self._runners:
            runner.activate()

    def __call__(self, inputs: Tensors) -> Tensors:
        """Run one batch: inputs by name to outputs by name.

        Raises:
            CompileError: when no profile takes these shapes.
        """
        shapes = {name: list(values.shape) for name, values in inputs.items()}
        index = choose_profile(self._profiles, shapes)
        return dict(self._runners[index].infer(feed_dict=inputs, copy_outputs_to_host=True))


def choose_profile(profiles: Sequence[Profile], shapes: dict[str, list[int]]) -> int:
    """The first profile that takes these shapes.

    Raises:
        CompileError: when none does.
    """
    for index, profile in enumerate(profiles):
        if covers(profile, shapes):
            return index
    raise CompileError(f"no profile takes inputs of shapes {shapes}")
