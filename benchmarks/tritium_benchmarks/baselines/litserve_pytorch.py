"""Baseline: LitServe + PyTorch."""

from __future__ import annotations

from functools import partial

from tritium_benchmarks.baselines.litserve_service import THREADS, serve
from tritium_benchmarks.baselines.program import options
from tritium_benchmarks.baselines.torch_model import TorchModel

if __name__ == "__main__":
    with options("Serve a bundle with LitServe and PyTorch.") as given:
        serve(partial(TorchModel, given.bundle, THREADS), given.port)
