"""The part of Triton's Python-backend module that our servables use.

Source: triton-inference-server/python_backend, src/resources/triton_python_backend_utils.py.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

class TritonError(Exception):
    UNKNOWN: int
    INTERNAL: int
    NOT_FOUND: int
    INVALID_ARG: int
    UNAVAILABLE: int
    def __init__(self, message: str, code: int = ...) -> None: ...

class TritonModelException(Exception): ...

class Tensor:
    def __init__(self, name: str, numpy_array: np.ndarray[Any, Any]) -> None: ...
    def as_numpy(self) -> np.ndarray[Any, Any]: ...
    def name(self) -> str: ...

class InferenceRequest:
    def __init__(
        self,
        model_name: str,
        requested_output_names: list[str],
        inputs: list[Tensor],
        request_id: str = ...,
        timeout: int = ...,
    ) -> None: ...
    def request_id(self) -> str: ...
    def timeout(self) -> int: ...
    async def async_exec(self) -> InferenceResponse: ...

class InferenceResponse:
    def __init__(
        self, output_tensors: Sequence[Tensor] = ..., error: TritonError | None = ...
    ) -> None: ...

class Logger:
    @staticmethod
    def log_info(message: str) -> None: ...
    @staticmethod
    def log_warn(message: str) -> None: ...

def get_output_tensor_by_name(response: InferenceResponse, name: str) -> Tensor: ...
def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None: ...
