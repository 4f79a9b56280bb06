"""PyTorch module -> ONNX, one function per component.

Pixels are normalised inside the image encoder's graph and softmax ends the fusion head's, so
that what travels between the served steps is small and what leaves is an answer. The fusion
head is exported once per set of modalities; with a modality absent, its encoder is not part of
the graph at all.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from tritium_builders.bundle_schema import FEATURE_TENSORS, FeatureKind
from tritium_builders.errors import ExportError
from tritium_builders.reference import FusionModel
from tritium_builders.tasks import answer_tensor, to_answers
from tritium_client.contract import (
    ATTENTION_MASK,
    INPUT_IDS,
    PIXELS,
    WORD_STARTS,
    Modality,
)

OPSET = 20
"""The newest that OpenVINO, ONNX Runtime and TensorRT 10 all take."""

Dynamic = dict[int, torch.export.Dim]


class _TextEncoderGraph(nn.Module):
    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.encoder = model.text_encoder
        self._model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, word_starts: Tensor | None = None
    ) -> Tensor:
        return self._model.encode_text(input_ids, attention_mask, word_starts)


class _ImageEncoderGraph(nn.Module):
    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.encoder = model.image_encoder
        self._model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self._model.encode_image(pixels)


class _FusionHeadGraph(nn.Module):
    def __init__(self, model: FusionModel, given: Sequence[Modality]) -> None:
        super().__init__()
        self.head = model.fusion_head
        self._model = model
        self._given = tuple(given)

    def forward(self, *features: Tensor) -> Tensor:
        remaining = list(features)
        text = remaining.pop(0) if "text" in self._given else None
        image = remaining.pop(0) if "image" in self._given else None
        mask = remaining.pop(0) if remaining else None
        if mask is not None and self._model.task == "tagging":
            mask = (mask >= 0).to(mask.dtype)  # of the words' starts
        return to_answers(self._model.task, self._model.fuse(text, image, mask))


def export_text_encoder(model: FusionModel, kind: FeatureKind, path: Path) -> None:
    """Write the text encoder's graph: `input_ids`, `attention_mask` -> features.

    Of a text that is tagged, `word_starts` is an input as well.

    Raises:
        ExportError: when the module cannot be exported with a dynamic batch and length.
    """
    batch, tokens = _batch(), torch.export.Dim("tokens", min=2, max=model.text.max_length)
    # Any ids do: what is traced is the graph, and parity checks the numbers on real samples.
    ids = torch.ones((2, min(5, model.text.max_length)), dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, -1] = 0
    examples: tuple[Tensor, ...] = (ids, mask)
    inputs: dict[str, Dynamic] = {
        INPUT_IDS: {0: batch, 1: tokens},
        ATTENTION_MASK: {0: batch, 1: tokens},
    }
    if kind == "words":
        examples = (ids, mask, torch.tensor([[1, 2, 3], [1, -1, -1]]))
        inputs[WORD_STARTS] = {0: batch, 1: _words(model)}
    graph = _TextEncoderGraph(model).eval()
    _export(graph, examples, inputs, FEATURE_TENSORS["text", kind], path)


def export_image_encoder(model: FusionModel, kind: FeatureKind, path: Path) -> None:
    """Write the image encoder's graph: `pixels` UINT8 [B, H, W, 3] -> features.

    Raises:
        ExportError: when the module cannot be exported with a dynamic batch.
    """
    pixels = torch.zeros((2, model.image.height, model.image.width, 3), dtype=torch.uint8)
    _export(
        _ImageEncoderGraph(model).eval(),
        (pixels,),
        {PIXELS: {0: _batch()}},
        FEATURE_TENSORS["image", kind],
        path,
    )


def export_fusion_head(
    model: FusionModel,
    given: Sequence[Modality],
    text: tuple[FeatureKind, int],
    image: tuple[FeatureKind, tuple[int, ...]],
    path: Path,
) -> None:
    """Write the fusion head's graph for one set of modalities: features -> the task's answer.

    Args:
        model: The model.
        given: The modalities that are present.
        text: Kind of the text features and D.
        image: Kind of the image features and their shape for one item, [D] or [patches, D].
        path: Where the .onnx goes.

    Raises:
        ExportError: when the module cannot be exported with a dynamic batch.
    """
    batch = _batch()
    tokens = torch.export.Dim("tokens", min=2, max=model.text.max_length)
    inputs: dict[str, tuple[Tensor, Dynamic]] = {}
    if "text" in given:
        text_kind, size = text
        name = FEATURE_TENSORS["text", text_kind]
        if text_kind == "pooled":
            inputs[name] = (torch.ones(2, size), {0: batch})
        else:
            rows = _words(model) if text_kind == "words" else tokens
            inputs[name] = (torch.ones(2, 5, size), {0: batch, 1: rows})
    if "image" in given:
        image_kind, shape = image
        inputs[FEATURE_TENSORS["image", image_kind]] = (torch.ones(2, *shape), {0: batch})
    if takes_mask(model, given, text[0]):
        mask = torch.ones((2, 5), dtype=torch.int64)
        if text[0] == "words":
            inputs[WORD_STARTS] = (mask, {0: batch, 1: _words(model)})
        else:
            inputs[ATTENTION_MASK] = (mask, {0: batch, 1: tokens})
    _export(
        _FusionHeadGraph(model, given).eval(),
        tuple(example for example, _ in inputs.values()),
        {name: dynamic for name, (_, dynamic) in inputs.items()},
        answer_tensor(model.task),
        path,
    )


def takes_mask(model: FusionModel, given: Sequence[Modality], kind: FeatureKind) -> bool:
    """Whether the head's graph for these modalities has the attention mask as an input."""
    return "text" in given and kind != "pooled" and model.head_takes_mask


def _words(model: FusionModel) -> torch.export.Dim:
    return torch.export.Dim("words", min=1, max=model.text.max_length)


def _batch() -> torch.export.Dim:
    return torch.export.Dim("batch", min=1, max=1024)


def _export(
    module: nn.Module,
    examples: tuple[Tensor, ...],
    inputs: dict[str, Dynamic],
    output: str,
    path: Path,
) -> None:
    shapes: Any = tuple(inputs.values())
    if isinstance(module, _FusionHeadGraph):
        shapes = (shapes,)  # *features is one argument to torch.export
    try:
        with _quiet(), torch.no_grad(), _plain_attention(module):
            program = torch.onnx.export(
                module,
                examples,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=[output],
                dynamic_shapes=shapes,
                verbose=False,
            )
            assert program is not None  # noqa: S101 - dynamo=True always returns a program
            graph = program.model_proto
    except Exception as error:
        name = type(module).__name__.strip("_").removesuffix("Graph")
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(
            f"{name}: torch.onnx.export failed: {lines[0]}; its forward must work for any batch "
            f"size (and text length) without Python branches on tensor values"
        ) from error
    _canonicalise(graph, list(inputs), output)
    onnx.checker.check_model(graph)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(graph, str(path))


def _canonicalise(graph: onnx.ModelProto, inputs: list[str], output: str) -> None:
    """Drop what differs from run to run (stack traces, paths), and check the names."""
    del graph.metadata_props[:]
    graph.doc_string = ""
    del graph.graph.metadata_props[:]
    graph.graph.doc_string = ""
    for node in graph.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*graph.graph.value_info, *graph.graph.input, *graph.graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    for initializer in graph.graph.initializer:
        del initializer.metadata_props[:]
    found = [value.name for value in graph.graph.input]
    if found != inputs or [value.name for value in graph.graph.output] != [output]:
        raise ExportError(
            f"the exported graph has inputs {found}, expected {inputs}: "
            "an input that the module never reads was dropped"
        )


@contextlib.contextmanager
def _plain_attention(module: nn.Module) -> Iterator[None]:
    """Have transformers' models written as matrix products and a softmax while they are exported.

    PyTorch's fused attention is exported with a test for NaN around each softmax, which keeps
    OpenVINO from fusing it again. The answers are the same.
    """
    models: list[Any] = [
        part for part in module.modules() if hasattr(part, "set_attn_implementation")
    ]
    before = [model.config._attn_implementation for model in models]
    for model in models:
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        for model, implementation in zip(models, before, strict=True):
            model.set_attn_implementation(implementation)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings and progress lines to itself; its errors still come out."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
