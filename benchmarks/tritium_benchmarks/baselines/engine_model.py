"""What Tritium itself serves, without Triton: its decoder, its engine, its packing.

The limit and LitServe's tuned twin run it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tritium_benchmarks.baselines.reading import App, Probabilities
from tritium_benchmarks.inputs import Request
from tritium_builders.bundle import TOKENIZER
from tritium_builders.bundle_schema import head_role
from tritium_builders.configs import component_graphs, engine_spec
from tritium_builders.servables import image_decoder, text_tokenizer
from tritium_builders.servables.engine import Engine, Tensors
from tritium_client import contract
from tritium_client.contract import Modality, Role

Runtime = Literal["openvino", "onnxruntime"]
ENCODERS: dict[Modality, Role] = {"text": "text_encoder", "image": "image_encoder"}
RUNTIMES: tuple[Runtime, ...] = ("openvino", "onnxruntime")


class EngineModel:
    """What Tritium serves, in this process: its servables without Triton.

    Args:
        bundle: The app's folder.
        graphs: Folder with its ONNX graphs, as `write_graphs` leaves them.
        runtime: What runs them.
        threads: For each engine call; 0 for all that this process may use.
        batch: The largest number of items in one engine call.
        bf16: Whether OpenVINO computes the encoders in bfloat16.
    """

    def __init__(
        self,
        bundle: Path,
        graphs: Path,
        runtime: Runtime,
        *,
        threads: int,
        batch: int,
        bf16: bool = False,
    ) -> None:
        manifest = App.load(bundle).manifest
        self._text_spec = manifest.text.servable_spec()
        self._image_spec = manifest.image.servable_spec()
        self._tokenizer = text_tokenizer.load_tokenizer(bundle / TOKENIZER, self._text_spec)
        self._engines: dict[Role, Engine] = {}
        for role, graph in component_graphs(manifest).items():
            if role in {"text_tokenizer", "image_decoder"}:
                continue
            spec: dict[str, Any] = engine_spec(
                graph, runtime, f"{role}.onnx", bf16=bf16 and role in ENCODERS.values()
            )
            spec |= {"threads": threads, "max_batch": batch}
            self._engines[role] = Engine(graphs, spec)

    def __call__(self, requests: Sequence[Request]) -> list[Probabilities]:
        """Answer requests of one kind: all with a text, a picture, or both.

        Returns:
            FP32 [labels] for each: the probabilities.
        """
        given = requests[0].modalities
        tensors: list[Tensors] = [self._read(request) for request in requests]
        for role in (*(ENCODERS[modality] for modality in given), head_role(given)):
            for known, answer in zip(tensors, self._engines[role](tensors), strict=True):
                if isinstance(answer, Exception):
                    raise answer
                known.update(answer)
        return [known[contract.PROBABILITIES][0] for known in tensors]

    def _read(self, request: Request) -> Tensors:
        tensors: Tensors = {}
        if request.text is not None:
            ids = text_tokenizer.encode(self._tokenizer, request.text.encode(), self._text_spec)
            tensors[contract.INPUT_IDS] = np.array([ids], np.int64)
            tensors[contract.ATTENTION_MASK] = np.ones((1, len(ids)), np.int64)
        if request.image is not None:
            tensors[contract.PIXELS] = image_decoder.decode(request.image, self._image_spec)[None]
        return tensors
