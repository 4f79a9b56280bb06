"""Baseline: PyTriton's `@batch` decorator on ONNX Runtime, one instance for each core.

Source: https://triton-inference-server.github.io/pytriton/latest/binding_models, "Binding Models".
"""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import numpy.typing as npt
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from tritium_benchmarks.baselines.onnx_model import OnnxRuntimeModel
from tritium_benchmarks.baselines.program import HOST, options
from tritium_benchmarks.baselines.reading import App, Model
from tritium_benchmarks.contenders import PYTRITON_MODEL
from tritium_client import contract
from tritium_deploy.ports import Ports

MAX_BATCH = 8
THREADS = 1


class Classify:
    """One instance of the model."""

    def __init__(self, model: Model) -> None:
        self._model = model

    @batch  # type: ignore[untyped-decorator]
    def __call__(
        self, text: npt.NDArray[np.object_], image: npt.NDArray[np.object_]
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Answer a batch, BYTES [batch, 1] each."""
        texts = [row.decode() for row in text[:, 0]]
        return {contract.PROBABILITIES: self._model(texts, list(image[:, 0]))}


if __name__ == "__main__":
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    signal.signal(signal.SIGINT, lambda *_: stopped.set())
    with options("Serve a bundle with PyTriton and ONNX Runtime.") as given:
        cores = len(os.sched_getaffinity(0))
        instances = [
            Classify(OnnxRuntimeModel(given.bundle, given.graphs, THREADS)) for _ in range(cores)
        ]
        free = Ports.free()
        config = TritonConfig(
            grpc_address=HOST, grpc_port=given.port, http_address=HOST, http_port=free.http,
            metrics_address=HOST, metrics_port=free.metrics,
        )  # fmt: skip
        with Triton(config=config) as triton:
            triton.bind(
                model_name=PYTRITON_MODEL,
                infer_func=instances,
                inputs=[
                    Tensor(name=contract.TEXT, dtype=bytes, shape=(1,)),
                    Tensor(name=contract.IMAGE, dtype=bytes, shape=(1,)),
                ],
                outputs=[
                    Tensor(
                        name=contract.PROBABILITIES,
                        dtype=np.float32,
                        shape=(len(App.load(given.bundle).manifest.labels),),
                    )
                ],
                config=ModelConfig(max_batch_size=MAX_BATCH),
                strict=False,
            )
            triton.run()
            stopped.wait()
