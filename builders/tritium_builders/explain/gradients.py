"""Attribution by gradients, through the bundle's PyTorch modules, with captum.

Both encoders and the head are one function of the token embeddings and the pixels, so that what
text and image add is measured together, in one unit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from tritium_builders.errors import ExplainError, needs
from tritium_builders.explain.answering import encode_rows, head_mask, outputs_of
from tritium_builders.explain.attributions import Attributions
from tritium_builders.explain.item import ExplainedItem
from tritium_builders.reference import FusionModel

PIECES = (0.0, 0.02, 0.1, 1.0)
"""Where the path from the blank item to the real one is cut. Image encoders change most where
shapes first show on a picture of one colour; 24 steps for each piece leave a gap of at most 2
points on the demo's items, and 128 on the whole path one of 4."""
STEPS = 24
"""Of each piece."""
AT_ONCE = 8
"""Steps in one pass, which bounds memory."""

Ends = tuple[Tensor, Tensor]
"""Embeddings FP32 [1, L, E] and pixels FP32 [1, H, W, 3] of one item."""
Output = Callable[[Tensor, Tensor], Tensor]
"""Embeddings FP32 [B, L, E] and pixels FP32 [B, H, W, 3], 0 to 255 -> one output, FP32 [B]."""


def integrated_gradients(model: FusionModel, item: ExplainedItem, output: int) -> Attributions:
    """Integrate the gradient on the straight path from a blank item to the real one.

    The blank item has the blank token in every place but the special ones, and a picture of one
    colour. All attributions together are the difference of the two items' outputs (the axiom of
    completeness).

    Args:
        model: With all its modules.
        item: What is explained.
        output: Index of the output.

    Raises:
        ExplainError: when the text encoder has no embedding layer to start from.
        MissingExtraError: when captum is not installed.

    Source: Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks".
    """
    with needs("explain"):
        from captum.attr import IntegratedGradients

    layer = embedding_layer(model)
    real, blank = _ends(layer, item)
    function = _output_of(model, layer, item, output)
    text, image = torch.zeros_like(real[0]), torch.zeros_like(real[1])
    for start, end in pairwise(PIECES):
        found = IntegratedGradients(function).attribute(
            _between(blank, real, end),
            baselines=_between(blank, real, start),
            n_steps=STEPS,
            internal_batch_size=AT_ONCE,
            method="gausslegendre",
        )
        text, image = text + found[0], image + found[1]
    with torch.no_grad():
        baseline = float(function(*blank))
    return Attributions(_per_token(text), _per_pixel(image), baseline)


def gradient(model: FusionModel, item: ExplainedItem, output: int) -> Attributions:
    """Multiply the gradient at the item with its distance from the blank item: one pass, coarse.

    Args:
        model: With all its modules.
        item: What is explained.
        output: Index of the output.

    Raises:
        ExplainError: when the text encoder has no embedding layer to start from.
        MissingExtraError: when captum is not installed.

    Source: Simonyan et al. 2014, "Deep Inside Convolutional Networks"; times the input as in
    Shrikumar et al. 2017, "Learning Important Features Through Propagating Activation
    Differences", section 2.
    """
    with needs("explain"):
        from captum.attr import Saliency

    layer = embedding_layer(model)
    real, blank = _ends(layer, item)
    real = (real[0].requires_grad_(), real[1].requires_grad_())
    slopes = Saliency(_output_of(model, layer, item, output)).attribute(real, abs=False)
    text, image = (
        slope * (end - start) for slope, end, start in zip(slopes, real, blank, strict=True)
    )
    return Attributions(_per_token(text), _per_pixel(image))


def embedding_layer(model: FusionModel) -> nn.Module:
    """The layer that turns token ids into vectors.

    Raises:
        ExplainError: when the text encoder does not say which it is.
    """
    inner = getattr(model.text_encoder, "model", model.text_encoder)
    find = getattr(inner, "get_input_embeddings", None)
    if find is None:
        raise ExplainError(
            f"{type(model.text_encoder).__name__} does not say which layer embeds its tokens; "
            "take --method occlusion"
        )
    layer: nn.Module = find()
    return layer


def _ends(layer: nn.Module, item: ExplainedItem) -> tuple[Ends, Ends]:
    """The real item and the blank one."""
    special = torch.from_numpy(item.special)
    blank_ids = torch.where(special, item.ids, item.blank_token)
    with torch.no_grad():
        text, blank_text = layer(item.ids), layer(blank_ids)
    image = item.pixels.float()
    return (text, image), (blank_text, item.blank_pixel.expand_as(image).clone())


def _between(blank: Ends, real: Ends, share: float) -> Ends:
    """A point of the straight path."""
    text, image = (start + share * (end - start) for start, end in zip(blank, real, strict=True))
    return text, image


def _output_of(model: FusionModel, layer: nn.Module, item: ExplainedItem, output: int) -> Output:
    def function(embeddings: Tensor, pixels: Tensor) -> Tensor:
        ids, tagged = item.ids.expand(len(embeddings), -1), item.tagged
        with _instead_of(layer, embeddings):
            text = encode_rows(model, ids, tagged)
        image, mask = model.encode_image(pixels), head_mask(ids, tagged)
        place = None if tagged is None else tagged.place
        return outputs_of(model, text, image, mask, place)[:, output]

    return function


@contextlib.contextmanager
def _instead_of(layer: nn.Module, output: Tensor) -> Iterator[None]:
    """Have a layer give something else than what it computes."""
    handle = layer.register_forward_hook(lambda *_: output)
    try:
        yield
    finally:
        handle.remove()


def _per_token(values: Tensor) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return values[0].detach().sum(-1).double().numpy()


def _per_pixel(values: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return values[0].detach().sum(-1).double().numpy()
