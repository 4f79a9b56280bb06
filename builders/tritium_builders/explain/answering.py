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
from tritium_builders.explain.item import TaggedWords
from tritium_builders.reference import FusionModel
from tritium_builders.tasks import to_answers
from tritium_client.contract import (
    ATTENTION_MASK,
    INPUT_IDS,
    PIXELS,
    WORD_STARTS,
    Modality,
    Role,
)

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
            What a caller gets, FP32 [B, K]: of a text that is tagged at one word (at all of them,
            FP32 [B, W, K], while none is chosen), of an app that embeds how similar text and
            picture are, K = 1.
        """


def outputs_of(
    model: FusionModel,
    text: Tensor | None,
    image: Tensor | None,
    mask: Tensor | None,
    place: int | None,
) -> Tensor:
    """From features to outputs; `Answering` says which.

    Args:
        model: Whose head is asked.
        text: FP32 [B, ...], features of the texts; None for absent ones.
        image: FP32 [B, ...], features of the pictures, likewise.
        mask: INT64 [B, L], of the texts' features.
        place: Index of the word, where words are tagged and one is chosen.
    """
    if model.task == "embedding":
        return _similarity(
            to_answers(model.task, model.fuse(text, None, mask)),
            to_answers(model.task, model.fuse(None, image, None)),
        )
    answers = to_answers(model.task, model.fuse(text, image, mask))
    return answers if place is None else answers[:, place]


def _similarity(text: Tensor, image: Tensor) -> Tensor:
    return (text * image).sum(-1, keepdim=True)


class ModuleAnswering(Answering):
    """The bundle's PyTorch modules.

    Args:
        model: With all its modules.
        tagged: The words of the text, where they are tagged.
    """

    def __init__(self, model: FusionModel, tagged: TaggedWords | None = None) -> None:
        self._model = model
        self._tagged = tagged

    @torch.inference_mode()
    def __call__(self, ids: Tensor, pixels: Tensor, given: Given = BOTH) -> Tensor:
        """Answer items, as `Answering` says."""
        model, tagged = self._model, self._tagged
        text = image = mask = None
        if "text" in given:
            text = _encode_once(lambda rows: encode_rows(model, rows, tagged), ids)
            mask = head_mask(ids, tagged)
        if "image" in given:
            image = _encode_once(model.encode_image, pixels)
        return outputs_of(model, text, image, mask, tagged.place if tagged is not None else None)


def encode_rows(model: FusionModel, ids: Tensor, tagged: TaggedWords | None) -> Tensor:
    """Encode texts of one length, INT64 [B, L], without padding; FP32 [B, ...]."""
    starts = None if tagged is None else starts_of(tagged, len(ids))
    return model.encode_text(ids, torch.ones_like(ids), starts)


def head_mask(ids: Tensor, tagged: TaggedWords | None) -> Tensor:
    """What a head is told of texts without padding, INT64 [B, L] or of words [B, W], all ones."""
    return torch.ones_like(ids if tagged is None else starts_of(tagged, len(ids)))


def starts_of(tagged: TaggedWords, count: int) -> Tensor:
    """Where words start in so many texts, INT64 [count, W]: they differ in tokens, not in words."""
    return tagged.starts.expand(count, -1)


class GraphAnswering(Answering):
    """The bundle's exported graphs on ONNX Runtime.

    Args:
        graphs: Role -> its .onnx file.
        manifest: The bundle's.
        tagged: The words of the text, where they are tagged.
    """

    def __init__(
        self,
        graphs: Mapping[Role, Path],
        manifest: BundleManifest,
        tagged: TaggedWords | None = None,
    ) -> None:
        import onnxruntime

        self._manifest = manifest
        self._tagged = tagged
        self._sessions = {
            role: onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            for role, path in graphs.items()
        }

    def __call__(self, ids: Tensor, pixels: Tensor, given: Given = BOTH) -> Tensor:
        """Answer items, as `Answering` says."""
        feed: dict[str, npt.NDArray[Any]] = {ATTENTION_MASK: np.ones_like(ids.numpy())}
        feed |= self._words(len(ids))
        if "text" in given:
            feed |= self._encode("text_encoder", INPUT_IDS, ids)
        if "image" in given:
            feed |= self._encode("image_encoder", PIXELS, pixels)
        if self._manifest.task == "embedding":
            return _similarity(self._head(["text"], feed), self._head(["image"], feed))
        answers = self._head(given, feed)
        if self._tagged is None or self._tagged.place is None:
            return answers
        return answers[:, self._tagged.place]

    def _head(self, given: Given, feed: Feed) -> Tensor:
        ((_, answer),) = self._run(head_role(given), feed).items()
        return torch.from_numpy(answer)

    def _words(self, count: int) -> dict[str, npt.NDArray[Any]]:
        if self._tagged is None:
            return {}
        return {WORD_STARTS: starts_of(self._tagged, count).numpy()}

    def _encode(self, role: Role, name: str, rows: Tensor) -> Feed:
        output = self._sessions[role].get_outputs()[0].name

        def encode(own: Tensor) -> Tensor:
            mask = np.ones(own.shape[:2], dtype=np.int64)
            feed = {name: own.numpy(), ATTENTION_MASK: mask, **self._words(len(own))}
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
