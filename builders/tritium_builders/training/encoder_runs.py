"""How a frozen encoder is run over many items: by OpenVINO, where it says what PyTorch says.

Over a whole data set OpenVINO takes a fraction of PyTorch's time, and the graph that it needs is
what `tritium build` exports anyway: both share it through the cache. Whether it says the same is
checked on some of the items, within the parity gate's tolerance; where it does not, or cannot run
the encoder, PyTorch does the work and one line says so.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from tritium_builders.bundle_schema import FEATURE_TENSORS, FeatureKind
from tritium_builders.compile import compile_openvino
from tritium_builders.cores import available_cores
from tritium_builders.errors import CompileError, ExportError
from tritium_builders.export import export_image_encoder, export_text_encoder
from tritium_builders.graph_cache import cached_encoder_export
from tritium_builders.models import KnownModule
from tritium_builders.numerics import cosine_similarity, relative_difference
from tritium_builders.reference import FusionModel
from tritium_builders.servables.engine import OpenVinoRuntime
from tritium_builders.tolerances import TOLERANCES
from tritium_client.contract import ATTENTION_MASK, INPUT_IDS, PIXELS, Modality

Inputs = Mapping[str, npt.NDArray[Any]]
"""One batch: `input_ids` and `attention_mask` INT64 [B, L], or `pixels` UINT8 [B, H, W, 3]."""
Features = npt.NDArray[np.float32]
"""FP32 [B, D] or [B, L, D]."""
Given = TypeVar("Given")
Made = TypeVar("Made")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncoderRun:
    """A frozen encoder, ready to run."""

    run: Callable[[Inputs], Features]
    side_by_side: int
    """How many batches may be under way at once; each then keeps one core busy."""

    def over(self, make: Callable[[Given], Made], todo: Sequence[Given]) -> Iterator[Made]:
        """Do work that ends in `run` for every batch, in order, a few batches at a time.

        Args:
            make: Prepares a batch and runs it.
            todo: What the batches are made of.
        """
        if self.side_by_side == 1:
            yield from map(make, todo)
            return
        at_once = 8 * self.side_by_side
        with ThreadPoolExecutor(self.side_by_side) as pool:
            for start in range(0, len(todo), at_once):
                yield from pool.map(make, todo[start : start + at_once])


def encoder_run(
    model: FusionModel, modality: Modality, samples: Sequence[Inputs], *, fast: bool
) -> EncoderRun:
    """Choose what runs an encoder.

    Args:
        model: Holds the encoder; its head is not used.
        modality: Which encoder.
        samples: Batches on which OpenVINO must agree with PyTorch.
        fast: Whether to try OpenVINO at all.
    """
    slow = EncoderRun(lambda inputs: _by_pytorch(model, modality, inputs), 1)
    if not fast:
        return slow
    expected = [slow.run(inputs) for inputs in samples]
    kind: FeatureKind = "pooled" if expected[0].ndim == 2 else "sequence"
    try:
        run = _openvino(model, modality, kind)
        problem = _disagreement(expected, [run.run(inputs) for inputs in samples], samples)
    except (ExportError, CompileError, RuntimeError) as error:
        problem = str(error).strip().split("\n")[0]
    if problem:
        _log.warning(
            "%s encoder: PyTorch computes its features, as OpenVINO cannot: %s", modality, problem
        )
        return slow
    return run


@torch.inference_mode()
def _by_pytorch(model: FusionModel, modality: Modality, inputs: Inputs) -> Features:
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    if modality == "text":
        features = model.encode_text(tensors[INPUT_IDS], tensors[ATTENTION_MASK])
    else:
        features = model.encode_image(tensors[PIXELS])
    return features.float().numpy()


def _openvino(model: FusionModel, modality: Modality, kind: FeatureKind) -> EncoderRun:
    module = model.text_encoder if modality == "text" else model.image_encoder
    assert isinstance(module, KnownModule)  # noqa: S101 - recipes make no others
    output = FEATURE_TENSORS[modality, kind]
    cores = available_cores()
    with tempfile.TemporaryDirectory() as name:
        graph = Path(name) / "encoder.onnx"
        if modality == "text":
            cached_encoder_export(
                module, "text_encoder", model.text, kind, graph,
                lambda path: export_text_encoder(model, kind, path),
            )  # fmt: skip
        else:
            cached_encoder_export(
                module, "image_encoder", model.image, kind, graph,
                lambda path: export_image_encoder(model, kind, path),
            )  # fmt: skip
        file = Path(name) / compile_openvino(graph, Path(name))
        spec = {"threads": 1, "streams": cores, "outputs": [{"name": output}]}
        runtime = OpenVinoRuntime(file, spec)
    return EncoderRun(lambda inputs: runtime(dict(inputs))[output], max(2, cores))


def _disagreement(
    expected: Sequence[Features], actual: Sequence[Features], samples: Sequence[Inputs]
) -> str | None:
    """How far the two are apart, in words, where that is too far."""
    tolerance = TOLERANCES["fp32"]
    for want, got, inputs in zip(expected, actual, samples, strict=True):
        if want.ndim == 3 and ATTENTION_MASK in inputs and want.shape == got.shape:
            here = inputs[ATTENTION_MASK][..., None] == 1  # what lies under padding means nothing
            want, got = want * here, got * here  # noqa: PLW2901
        relative = relative_difference(want, got)
        if not relative <= tolerance.features_relative:
            return f"relative difference {relative:.2g}"
        if not cosine_similarity(want, got) >= tolerance.features_cosine:
            return f"cosine {cosine_similarity(want, got):.6f}"
    return None
