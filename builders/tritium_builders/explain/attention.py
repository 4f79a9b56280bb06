"""What transformer encoders look at: attention rollout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tritium_builders.errors import ExplainError
from tritium_builders.explain.attributions import Attributions, Values
from tritium_builders.explain.item import ExplainedItem
from tritium_builders.reference import FusionModel


def attention(model: FusionModel, item: ExplainedItem) -> Attributions:
    """Follow attention from an encoder's features back to its tokens or patches.

    Attributions have no sign, say nothing about a label, and sum up to 1 in each modality: they
    show what was looked at, not what it did.

    Args:
        model: With all its modules.
        item: What is explained.

    Raises:
        ExplainError: when neither encoder is a transformer.

    Source: Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3.
    """
    notes = []
    with torch.inference_mode():
        with _attentions(model.text_encoder) as found:
            model.text_encoder(item.ids, item.mask)
        tokens = _words(_rollout(found, model.text_encoder), item) if found else None
        with _attentions(model.image_encoder) as found:
            model.encode_image(item.pixels)
        patches = _rollout(found, model.image_encoder) if found else None
    if tokens is None and patches is None:
        raise ExplainError("neither encoder has attention; take --method integrated_gradients")
    pixels = None
    if patches is not None:
        pixels = _on_pixels(
            patches, model.image_encoder, (item.pixels.shape[1], item.pixels.shape[2])
        )
    for name, values in (("text", tokens), ("image", pixels)):
        if values is None:
            notes.append(f"the {name} encoder has no attention; take another method to see it")
    return Attributions(tokens, pixels, notes=tuple(notes))


@contextlib.contextmanager
def _attentions(encoder: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the attention of every layer, FP32 [1, heads, L, L]; none of a CNN."""
    model: Any = getattr(encoder, "model", None)
    found: list[Tensor] = []
    if not hasattr(model, "set_attn_implementation"):
        yield found
        return

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        found.extend(getattr(output, "attentions", None) or ())

    before, asked = model.config._attn_implementation, model.config.output_attentions
    handle = model.register_forward_hook(keep)
    try:
        model.set_attn_implementation("eager")  # the fused kernels keep no attention
        model.config.output_attentions = True
        yield found
    finally:
        handle.remove()
        model.config.output_attentions = asked
        model.set_attn_implementation(before)


def _rollout(layers: list[Tensor], encoder: nn.Module) -> Values:
    """How much of each token is in the features, FP64 [L], 1 together."""
    size = layers[0].shape[-1]
    flow = torch.eye(size, dtype=torch.float64)
    for layer in layers:
        # Half of what a layer gives comes past the attention, through its residual connection.
        mixed = 0.5 * layer[0].double().mean(0) + 0.5 * torch.eye(size, dtype=torch.float64)
        flow = mixed @ flow
    first = getattr(encoder, "pooling", None) in ("cls", "pooled")
    values: Values = (flow[0] if first else flow.mean(0)).numpy()
    return values


def _words(values: Values, item: ExplainedItem) -> Values:
    """Leave out special tokens, where attention that has nothing to look at goes."""
    own: Values = np.where(item.special, 0.0, values)
    return own / max(float(own.sum()), 1e-12)


def _on_pixels(patches: Values, encoder: nn.Module, size: tuple[int, int]) -> Values:
    """Spread what patches have over their pixels, FP64 [H, W]; class tokens are left out."""
    model: Any = encoder.model
    side = int(model.config.patch_size)
    rows, columns = size[0] // side, size[1] // side
    own = patches[len(patches) - rows * columns :].reshape(rows, columns)
    own = own / max(float(own.sum()), 1e-12)
    pixels: Values = np.zeros(size)
    pixels[: rows * side, : columns * side] = np.kron(own / side**2, np.ones((side, side)))
    return pixels
