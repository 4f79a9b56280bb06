"""LitServe with its batching: a worker for each core, one thread each.

    POST /predict {"text": "red apple", "image": "<base64>"} -> {"probabilities": [...]}

Source: https://lightning.ai/docs/litserve/features/batching. One thread for each of as many workers
as there are cores was LitServe's best on two cores; its default is one worker with all threads.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Sequence
from typing import Any

import litserve
import numpy.typing as npt

from tritium_benchmarks.baselines.program import HOST
from tritium_benchmarks.baselines.reading import Model

MAX_BATCH = 8
THREADS = 1
TIMEOUT_S = 0.0
"""For a batch to fill: LitServe's default. At 1 ms idle workers do not spin; measured once each for
4 s with ONNX Runtime at 1, 4, 16 and 32 in flight: 24.7, 55.2, 56.2, 58.0 answers/s at 1 ms; 24.0,
56.7, 61.8, 62.0 at 0.
"""


class FusionAPI(litserve.LitAPI):  # type: ignore[misc]
    """The model as LitServe calls it.

    Args:
        load: Makes the model, in each worker.
    """

    def __init__(self, load: Callable[[], Model]) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=TIMEOUT_S)
        self._load = load

    def setup(self, device: str) -> None:
        """Load the model in a worker."""
        del device
        self._model = self._load()

    def decode_request(self, request: dict[str, str]) -> tuple[str, bytes]:
        """Take a text and a picture out of JSON."""
        return request["text"], base64.b64decode(request["image"])

    def batch(self, inputs: Sequence[tuple[str, bytes]]) -> Sequence[tuple[str, bytes]]:
        """Keep pairs as they are: the model pads them itself."""
        return inputs

    def predict(self, pairs: Any) -> npt.NDArray[Any]:
        """Answer a batch."""
        texts, images = zip(*pairs, strict=True)
        return self._model(texts, images)

    def unbatch(self, output: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Give every request its row."""
        return list(output)

    def encode_response(self, output: npt.NDArray[Any]) -> dict[str, list[float]]:
        """Write probabilities as JSON."""
        return {"probabilities": output.tolist()}


def serve(load: Callable[[], Model], port: int) -> None:
    """Serve a model until a signal ends the process.

    Args:
        load: Makes the model; must be picklable, each worker calls it.
        port: On 127.0.0.1.
    """
    cores = len(os.sched_getaffinity(0))
    server = litserve.LitServer(FusionAPI(load), accelerator="cpu", workers_per_device=cores)
    server.run(host=HOST, port=port, log_level="warning", generate_client_file=False)
