"""Triton servable of the tiny test app: every role in one file, plain arithmetic, no engine.

Published as `model.py` by tiny_repository.py, which also calls `text_features`, `image_features`
and `probabilities` here to compute what the server has to answer.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def text_features(text: bytes) -> Array:
    """FP32 [2]."""
    return np.array([len(text) % 7, sum(text) % 11], dtype=np.float32)


def image_features(image: bytes) -> Array:
    """FP32 [2]."""
    return np.array([len(image) % 5, sum(image) % 13], dtype=np.float32)


def probabilities(text: Array | None, image: Array | None, bias: float) -> Array:
    """FP32 [3], a softmax over the features that are there."""
    logits = np.array([bias, 0.0, 0.0], dtype=np.float32)
    if text is not None:
        logits[:2] += text / 4
    if image is not None:
        logits[1:] += image / 4
    exponents = np.exp(logits - logits.max())
    answer: Array = (exponents / exponents.sum()).astype(np.float32)
    return answer


class RefusedError(Exception):
    """A caller's mistake."""


class TritonPythonModel:
    """Plays the role that the config's `role` parameter names."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the parameters, and fail as the `fault` parameter or file says."""
        parameters = json.loads(args["model_config"])["parameters"]
        spec = {key: value["string_value"] for key, value in parameters.items()}
        self._role = spec["role"]
        self._bias = float(spec.get("bias", "0"))
        fault = spec.get("fault", "")
        fault_file = Path(spec.get("fault_file") or os.devnull)
        if fault_file.is_file():
            fault = fault_file.read_text()
        if fault == "raise":
            raise RuntimeError("the engine file is truncated")
        if fault == "exit":
            os._exit(3)
        if fault == "hang":
            time.sleep(3600)
        self._slow_s = float(spec.get("slow_s", "0"))
        self._grown: list[bytes] = []
        self._left = int(spec.get("crash_after", "-1"))
        self._count: Callable[[str, int, float, int], None] = lambda *_: None
        if "counts" in spec:
            sys.path.insert(0, spec["counts"])
            from encoders import step_metrics  # type: ignore[import-not-found]

            self._count = step_metrics({self._role: {"model": args["model_name"]}})

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request on its own; a text that starts with `sleep` takes a while, one that
        starts with `refuse` is refused, one that starts with `grow` costs MiB of memory for good.

        With `counts`, the folder of our servables, it counts what it does as `encoders` does. With
        `slow_s` every batch takes so many seconds more; with `crash_after` the process dies after
        so many requests.
        """
        import triton_python_backend_utils as pb

        def read(request: Any, name: str) -> Array | None:
            tensor = pb.get_input_tensor_by_name(request, name)
            return None if tensor is None else tensor.as_numpy().reshape(-1)

        def answer(request: Any) -> tuple[str, Array]:
            if self._role == "text_encoder":
                text = bytes(read(request, "text")[0])  # type: ignore[index]
                if text.startswith(b"sleep "):
                    time.sleep(float(text.split()[1]))
                if text.startswith(b"grow "):
                    self._grown.append(b"x" * (int(text.split()[1]) << 20))
                if text.startswith(b"refuse"):
                    raise RefusedError("tritium.invalid_input stage=text_encoder item=0: as asked")
                return "text_features", text_features(text)
            if self._role == "image_encoder":
                return "image_features", image_features(bytes(read(request, "image")[0]))  # type: ignore[index]
            text_part = read(request, "text_features")
            image_part = read(request, "image_features")
            return "probabilities", probabilities(text_part, image_part, self._bias)

        time.sleep(self._slow_s)
        began, refused = time.perf_counter(), 0
        responses = []
        for request in requests:
            if self._left == 0:
                os._exit(3)
            self._left -= 1
            try:
                name, value = answer(request)
            except RefusedError as error:
                refused += 1
                problem = pb.TritonError(str(error), pb.TritonError.INVALID_ARG)
                responses.append(pb.InferenceResponse(error=problem))
                continue
            responses.append(pb.InferenceResponse([pb.Tensor(name, value[np.newaxis])]))
        self._count(self._role, len(requests), time.perf_counter() - began, refused)
        return responses
