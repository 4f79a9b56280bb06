"""Triton servable: an encoder or a fusion head, run by OpenVINO or ONNX Runtime on the CPU.

Copied into a release as `model.py`; the parity gate runs the same code. Needs numpy and the one
runtime that the specification names.

Requests of unequal text lengths arrive side by side (Triton's ragged batching). They are sorted
by length and packed so that little is computed on padding.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Tensors = dict[str, npt.NDArray[Any]]


class Runtime(Protocol):
    """One engine, loaded; as many calls as it has streams may be under way."""

    def __call__(self, inputs: Tensors) -> Tensors:
        """Run one batch: inputs by name to outputs by name."""


class _SignalStack(ctypes.Structure):
    """What sigaltstack(2) reads and writes."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Leave the thread the stack for signal handlers that it has.

    OpenVINO's CPU plugin gives the thread that loads it another one, and takes the memory away
    with the Core (seen in 2026.4). When the Core ends in another thread, that stack stays in place
    without its memory, and the next signal with a handler, such as the SIGCHLD of a data loader's
    worker, ends the process.
    """
    library, before = ctypes.CDLL(None), _SignalStack()
    library.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        library.sigaltstack(ctypes.byref(before), None)


class OpenVinoRuntime:
    """Runs an OpenVINO IR. Source: https://docs.openvino.ai, "CPU device".

    Args:
        file: The model's .xml; its .bin lies beside it.
        spec: `threads` of each call, 0 for all that this process may use; `streams`, calls that
            run side by side; `bf16`, if it may round to bfloat16 where the CPU has units for it;
            `one_by_one`, see `takes_one_by_one`.
    """

    def __init__(self, file: Path, spec: dict[str, Any]) -> None:
        import openvino

        streams = spec["streams"]
        options: dict[str, Any] = {
            # Without this, a CPU with bf16 units would round fp32 models without a word.
            "INFERENCE_PRECISION_HINT": "bf16" if spec.get("bf16") else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": streams,
        }
        if spec["threads"]:
            # Of all streams together.
            options["INFERENCE_NUM_THREADS"] = spec["threads"] * streams
            # It would pin every process's threads to the same, the first cores.
            options["ENABLE_CPU_PINNING"] = False
        core = openvino.Core()
        model = core.read_model(str(file))
        if takes_one_by_one(spec):
            model.reshape({port: [1, *list(port.partial_shape)[1:]] for port in model.inputs})
        with signal_stack_kept():
            compiled = core.compile_model(model, "CPU", options)
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(streams):
            self._idle.put(compiled.create_infer_request())
        self._names = [output["name"] for output in spec["outputs"]]

    def __call__(self, inputs: Tensors) -> Tensors:
        """Run one batch: inputs by name to outputs by name."""
        request = self._idle.get()
        try:
            # share_outputs=False: the next batch overwrites this request's memory.
            results = request.infer(inputs, share_inputs=True, share_outputs=False)
            return {name: results[name] for name in self._names}
        finally:
            self._idle.put(request)


class OnnxRuntimeRuntime:
    """Runs an ONNX model with ONNX Runtime's CPU provider.

    Args:
        file: The .onnx file.
        spec: `threads` of each call, 0 for all that this process may use; any number of calls may
            run side by side.
    """

    def __init__(self, file: Path, spec: dict[str, Any]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = spec["threads"]
        # Between requests the cores belong to the other components, not to spinning threads.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        self._names = [output["name"] for output in spec["outputs"]]

    def __call__(self, inputs: Tensors) -> Tensors:
        """Run one batch: inputs by name to outputs by name."""
        return dict(zip(self._names, self._session.run(self._names, inputs), strict=True))


def takes_one_by_one(spec: dict[str, Any]) -> bool:
    """Whether each engine call answers one row, and OpenVINO knows its shape beforehand.

    A call of another shape than the last one costs it 1 to 4 ms more, and batches are of all sizes.
    Where the weights of one call stay in the cache for the next, and one thread has nothing to
    share out, a batch saves less than that: `one_by_one` says that the weights are few.
    """
    return bool(spec.get("one_by_one")) and spec["threads"] == 1


RUNTIMES: dict[str, type[OpenVinoRuntime | OnnxRuntimeRuntime]] = {
    "openvino": OpenVinoRuntime,
    "onnxruntime": OnnxRuntimeRuntime,
}


@dataclass(frozen=True)
class Row:
    """One item of one request."""

    request: int
    item: int
    length: int
    """Tokens, padding within its request included; 0 where no input is ragged."""


def pack(rows: Sequence[Row], max_batch: int, call_tokens: int) -> list[list[Row]]:
    """Group rows so that all groups, each padded to its longest, cost least.

    A group costs its tokens, padding included, and what a call costs whatever is in it. Sorted by
    length, the best groups are runs of neighbours; which runs is found row by row from the best
    groups of all rows before.

    Args:
        rows: In any order.
        max_batch: The largest number of rows in a group.
        call_tokens: What a call costs beside its tokens, in tokens. With 0 only rows of equal
            length share a group.

    Returns:
        Groups that together hold every row once, each sorted by length.
    """
    ordered = sorted(rows, key=lambda row: row.length)
    # Up to each row: (what the best groups cost, how many they are), and where the last one begins.
    best: list[tuple[int, int]] = [(0, 0)]
    begins: list[int] = [0]
    for end, row in enumerate(ordered, start=1):
        cost, begin = min(
            ((best[first][0] + row.length * (end - first) + call_tokens, best[first][1] + 1), first)
            for first in range(max(0, end - max_batch), end)
        )
        best.append(cost)
        begins.append(begin)
    groups: list[list[Row]] = []
    end = len(ordered)
    while end:
        groups.append(ordered[begins[end] : end])
        end = begins[end]
    return groups[::-1]


class Engine:
    """Runs the requests of one Triton batch in as few engine calls as their lengths allow.

    Args:
        folder: The component's version folder, with the engine's files.
        spec: `stage`, `runtime`, `file`, `threads`, `streams`, `max_batch`, `call_tokens`; perhaps
            `one_by_one`; `inputs`, each with `name`, `ragged` (its first axis is the text's length)
            and `pad`; `outputs`, each with `name` and `ragged`, or `ragged_as`: the input whose
            length it has (default: the first ragged one).
        runtime: What runs a batch; None for the one that the specification names.
    """

    def __init__(self, folder: Path, spec: dict[str, Any], runtime: Runtime | None = None) -> None:
        self._spec = spec
        self._ragged = [tensor["name"] for tensor in spec["inputs"] if tensor["ragged"]]
        self._runtime = runtime or RUNTIMES[spec["runtime"]](folder / spec["file"], spec)
        self._streams: int = spec["streams"]
        self._most: int = 1 if takes_one_by_one(spec) else spec["max_batch"]
        self._pool = ThreadPoolExecutor(self._streams) if self._streams > 1 else None

    def __call__(self, requests: Sequence[Tensors]) -> list[Tensors | Exception]:
        """Answer all requests.

        Args:
            requests: Each with every input, [N, ...]; ragged ones [N, length, ...].

        Returns:
            For each request every output, [N, ...]; ragged ones cut back to its own length.
        """
        rows = [
            Row(index, item, self._length(request))
            for index, request in enumerate(requests)
            for item in range(self._items(request))
        ]
        # Every stream has something to do.
        most = min(self._most, -(-len(rows) // self._streams))
        groups = pack(rows, most, self._spec["call_tokens"])
        run = partial(self._run, requests)
        answers = map(run, groups) if self._pool is None else self._pool.map(run, groups)
        found = {key: value for answer in answers for key, value in answer.items()}
        return [
            self._join([found[index, item] for item in range(self._items(request))])
            for index, request in enumerate(requests)
        ]

    def _run(
        self, requests: Sequence[Tensors], group: Sequence[Row]
    ) -> dict[tuple[int, int], Tensors | Exception]:
        """One engine call: (request, item) -> its answer."""
        try:
            outputs = self._runtime(self._gather(requests, group))
        except Exception as error:  # noqa: BLE001 - whatever a runtime raises is the answer
            return {(row.request, row.item): error for row in group}
        return {
            (row.request, row.item): self._cut(outputs, position, requests[row.request])
            for position, row in enumerate(group)
        }

    def _items(self, request: Tensors) -> int:
        return len(request[self._spec["inputs"][0]["name"]])

    def _length(self, request: Tensors) -> int:
        return request[self._ragged[0]].shape[1] if self._ragged else 0

    def _gather(self, requests: Sequence[Tensors], group: Sequence[Row]) -> Tensors:
        batch: Tensors = {}
        for tensor in self._spec["inputs"]:
            name = tensor["name"]
            values = [requests[row.request][name][row.item] for row in group]
            if tensor["ragged"]:
                longest = max(map(len, values))
                values = [_pad(value, longest, tensor["pad"]) for value in values]
            batch[name] = np.stack(values)
        return batch

    def _cut(self, outputs: Tensors, position: int, request: Tensors) -> Tensors:
        """One row of each output, without what was padded for its neighbours."""
        found = {}
        for tensor in self._spec["outputs"]:
            values = outputs[tensor["name"]][position]
            if tensor["ragged"]:
                values = values[: request[tensor.get("ragged_as", self._ragged[0])].shape[1]]
            found[tensor["name"]] = values
        return found

    def _join(self, items: Sequence[Tensors | Exception]) -> Tensors | Exception:
        tensors: list[Tensors] = []
        for item in items:
            if isinstance(item, Exception):
                return item
            tensors.append(item)
        outputs = (output["name"] for output in self._spec["outputs"])
        return {name: np.stack([item[name] for item in tensors]) for name in outputs}


def _pad(value: npt.NDArray[Any], length: int, pad: int) -> npt.NDArray[Any]:
    """Pad the first axis at its end: positions count from the first token on."""
    if len(value) == length:
        return value
    padded = np.full((length, *value.shape[1:]), pad, dtype=value.dtype)
    padded[: len(value)] = value
    return padded


class TritonPythonModel:
    """Triton's side: tensors in, tensors or errors out.

    Source: triton-inference-server/python_backend, README, "Usage".
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load what the version folder holds, as the config's `spec` parameter says."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        spec = json.loads(config["parameters"]["spec"]["string_value"])
        self._stage = spec["stage"]
        self._servable = Engine(folder, spec)
        self._inputs = [tensor["name"] for tensor in config["input"]]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer one batch of requests."""
        import triton_python_backend_utils as pb

        def read(request: Any) -> Tensors:
            tensors = ((name, pb.get_input_tensor_by_name(request, name)) for name in self._inputs)
            return {name: tensor.as_numpy() for name, tensor in tensors if tensor is not None}

        def write(answer: Tensors | Exception) -> Any:
            if isinstance(answer, Exception):
                error = pb.TritonError(f"{self._stage}: {answer!r}", pb.TritonError.INTERNAL)
                return pb.InferenceResponse(error=error)
            return pb.InferenceResponse([pb.Tensor(name, value) for name, value in answer.items()])

        return [write(answer) for answer in self._servable([read(request) for request in requests])]
