"""ONNX Runtime on the exported graphs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnxruntime

from tritium_benchmarks.baselines.reading import App, Probabilities, Reader
from tritium_builders.bundle_schema import head_role
from tritium_builders.servables.engine import Tensors
from tritium_client import contract


class OnnxRuntimeModel:
    """ONNX Runtime on the exported graphs.

    Args:
        bundle: The app's folder.
        graphs: Folder with its ONNX graphs, as `write_graphs` leaves them.
        threads: For each call; None for ONNX Runtime's default, all cores.
    """

    def __init__(self, bundle: Path, graphs: Path, threads: int | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        roles = ("text_encoder", "image_encoder", head_role(("text", "image")))
        self._text, self._image, self._head = (
            onnxruntime.InferenceSession(
                str(graphs / f"{role}.onnx"), options, providers=["CPUExecutionProvider"]
            )
            for role in roles
        )
        self._reader = Reader(App.load(bundle))

    def __call__(self, texts: Sequence[str], images: Sequence[bytes]) -> Probabilities:
        """Answer pairs of a text and an encoded picture with FP32 [pairs, labels]."""
        ids, mask = self._reader.tokens(texts)
        known: Tensors = {contract.INPUT_IDS: ids, contract.ATTENTION_MASK: mask}
        known[contract.PIXELS] = self._reader.pixels(images)
        for session in (self._text, self._image, self._head):
            given = {tensor.name: known[tensor.name] for tensor in session.get_inputs()}
            names = [tensor.name for tensor in session.get_outputs()]
            known.update(zip(names, session.run(names, given), strict=True))
        probabilities: Probabilities = known[contract.PROBABILITIES]
        return probabilities
