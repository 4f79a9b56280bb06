"""PyTorch, as training left the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from tritium_benchmarks.baselines.reading import App, Probabilities, Reader
from tritium_builders.bundle import Bundle
from tritium_builders.graphs import load_model


class TorchModel:
    """PyTorch, as training left the model.

    Args:
        bundle: The app's folder.
        threads: For each call; None for PyTorch's default, all cores.
    """

    def __init__(self, bundle: Path, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._model = load_model(Bundle.load(bundle)).eval()
        self._reader = Reader(App.load(bundle))

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str], images: Sequence[bytes]) -> Probabilities:
        """Answer pairs of a text and an encoded picture with FP32 [pairs, labels]."""
        ids, mask = (torch.from_numpy(rows) for rows in self._reader.tokens(texts))
        text = self._model.encode_text(ids, mask)
        image = self._model.encode_image(torch.from_numpy(self._reader.pixels(images)))
        probabilities: Probabilities = self._model.fuse(text, image, mask).softmax(-1).numpy()
        return probabilities
