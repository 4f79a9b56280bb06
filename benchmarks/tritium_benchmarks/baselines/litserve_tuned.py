"""Baseline: LitServe with all that Tritium has: its decoder, engine, precision and packing.

What is left between the two is the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from tritium_benchmarks.baselines.engine_model import EngineModel
from tritium_benchmarks.baselines.litserve_service import MAX_BATCH, THREADS, serve
from tritium_benchmarks.baselines.program import options
from tritium_benchmarks.baselines.reading import Probabilities
from tritium_benchmarks.inputs import Request


class TunedModel:
    """Tritium's servables in one of LitServe's workers.

    Args:
        bundle: The app's folder.
        graphs: Folder with its ONNX graphs.
        bf16: Whether the encoders are computed in bfloat16, which is OpenVINO's.
    """

    def __init__(self, bundle: Path, graphs: Path, *, bf16: bool = False) -> None:
        # What the limit's search finds best on two cores in fp32: ONNX Runtime, eight at a time.
        self._model = EngineModel(
            bundle,
            graphs,
            "openvino" if bf16 else "onnxruntime",
            threads=THREADS,
            batch=MAX_BATCH,
            bf16=bf16,
        )

    def __call__(self, texts: Sequence[str], images: Sequence[bytes]) -> Probabilities:
        """Answer pairs of a text and an encoded picture with FP32 [pairs, labels]."""
        pairs = zip(texts, images, strict=True)
        return np.stack(self._model([Request(text, image) for text, image in pairs]))


if __name__ == "__main__":
    with options("Serve a bundle with LitServe and Tritium's own servables.") as given:
        serve(partial(TunedModel, given.bundle, given.graphs, bf16=given.bf16), given.port)
