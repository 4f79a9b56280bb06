"""Baseline: FastAPI + ONNX Runtime."""

from __future__ import annotations

from tritium_benchmarks.baselines.fastapi_service import serve
from tritium_benchmarks.baselines.onnx_model import OnnxRuntimeModel
from tritium_benchmarks.baselines.program import options

if __name__ == "__main__":
    with options("Serve a bundle with FastAPI and ONNX Runtime.") as given:
        serve(OnnxRuntimeModel(given.bundle, given.graphs), given.port)
