"""Baseline: LitServe + ONNX Runtime."""

from __future__ import annotations

from functools import partial

from tritium_benchmarks.baselines.litserve_service import THREADS, serve
from tritium_benchmarks.baselines.onnx_model import OnnxRuntimeModel
from tritium_benchmarks.baselines.program import options

if __name__ == "__main__":
    with options("Serve a bundle with LitServe and ONNX Runtime.") as given:
        serve(partial(OnnxRuntimeModel, given.bundle, given.graphs, THREADS), given.port)
