"""Baseline: FastAPI + PyTorch."""

from __future__ import annotations

from tritium_benchmarks.baselines.fastapi_service import serve
from tritium_benchmarks.baselines.program import options
from tritium_benchmarks.baselines.torch_model import TorchModel

if __name__ == "__main__":
    with options("Serve a bundle with FastAPI and PyTorch.") as given:
        serve(TorchModel(given.bundle), given.port)
