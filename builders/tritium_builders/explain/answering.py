"""Asking a bundle's model: through its PyTorch modules, or through its graphs.

A method that only asks for answers explains every bundle, also one that keeps the graphs of
somebody's own modules.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tritium_builders.bundle_schema import BundleManifest, head_role
from tritium_builders.reference import FusionModel
from tritium_builders.tasks import to_answers
from tritium_client.contract import ATTENTION_MASK, INPUT_IDS, PIXELS, Modality, Role

Feed = Mapping[str, npt.NDArray[Any]]
Given = Sequence[Modality]
BOTH: Given = ("text", "image")


class Answering(ABC):
    """A model that can be asked."""

    @abstractmethod
    def __call__(self, ids: Tensor, pixels: Tensor, given: Given = BOTH) -> Tensor:
        """Answer items.

        Args:
            ids: INT64 [B, L], without padding.
            pixels: UINT8 [B, H, W, 3].
            given: The modalities that are present.

        Returns:
            What a caller gets, FP32 [B, K].
        """


class ModuleAnswering(Answering):
    """The bundle's PyTorch modules.

    Args:
        model: With all its modules.
    """

    def __init__(self, model: FusionModel) -> None:
        self._model = model

    @torch.inference_mode()
    def __call__(self, ids: Tensor, pixels: Tensor, given: Given = BOTH) -> Tensor:
        """Answer items, as `Answering` says."""
        model, mask = self._model, torch.ones_like(ids)
        text = image = None
        if "text" in given:
            text = _encode_once(lambda rows: model.encode_text(rows, torch.ones_like(rows)), ids)
        if "image" in given:
            image = _encode_once(model.encode_image, pixels)
        return to_answers(model.task, model.fuse(text, image, mask if text is not None else None))


class GraphAnswering(Answering):
    """The bundle's exported graphs on ONNX Runtime.

    Args:
        graphs: Role -> its .onnx file.
        manifest: The bundle's.
    """

    def __init__(self, graphs: Mapping[Role, Path], manifest: BundleManifest) -> None:
        import onnxruntime

        self._manifest = manifest
        self._sessions = {
            role: onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            for role, path in graphs.items()
        }

    def __call__(self, ids: Tensor, pixels: Tensor, given: Given = BOTH) -> Tensor:
        """Answer items, as `Answering` says."""
        feed: dict[str, npt.NDArray[Any]] = {ATTENTION_MASK: np.ones_like(ids.numpy())}
        if "text" in given:
            feed |= self._encode("text_encoder", INPUT_IDS, ids)
        if "image" in given:
            feed |= self._encode("image_encoder", PIXELS, pixels)
        ((_, answer),) = self._run(head_role(given), feed).items()
        return torch.from_numpy(answer)

    def _encode(self, role: Role, name: str, rows: Tensor) -> Feed:
        output = self._sessions[role].get_outputs()[0].name

        def encode(own: Tensor) -> Tensor:
            feed = {name: own.numpy(), ATTENTION_MASK: np.ones(own.shape[:2], dtype=np.int64)}
            return torch.from_numpy(self._run(role, feed)[output])

        return {output: _encode_once(encode, rows).numpy()}

    def _run(self, role: Role, feed: Feed) -> Feed:
        session = self._sessions[role]
        wanted = {one.name: feed[one.name] for one in session.get_inputs()}
        names = [one.name for one in session.get_outputs()]
        return dict(zip(names, session.run(names, wanted), strict=True))


def _encode_once(encode: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Encode rows [B, ...], equal ones once: where a region is left out, the text is the same."""
    different, places = torch.unique(rows, dim=0, return_inverse=True)
    return encode(different)[places]
