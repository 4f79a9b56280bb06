"""Attribution by leaving out: what changes when a token or a region is not there.

Only answers are asked for, so every model can be explained.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tritium_builders.errors import needs
from tritium_builders.explain.answering import Answering
from tritium_builders.explain.attributions import Attributions
from tritium_builders.explain.item import ExplainedItem
from tritium_builders.explain.records import GRID

WINDOW = 3
"""Regions that are left out together, in each direction; windows overlap by all but one."""
AT_ONCE = 8


def occlusion(
    ask: Answering, item: ExplainedItem, output: int, *, progress: bool = False
) -> Attributions:
    """Leave out each token, and each window of the picture, and see how the output changes.

    A token is replaced by the blank one, a window by the picture's mean colour. What a pixel adds
    is the mean over the windows that hold it: attributions do not add up to the output.

    Args:
        ask: The model.
        item: What is explained.
        output: Index of the output.
        progress: Whether captum shows how far it is, on stderr.

    Raises:
        MissingExtraError: when captum is not installed.

    Source: Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks",
    section 4.2; for tokens Li et al. 2016, "Understanding Neural Networks through
    Representation Erasure".
    """
    with needs("explain"):
        from captum.attr import Occlusion

    def function(ids: Tensor, pixels: Tensor) -> Tensor:
        return ask(ids, pixels.to(torch.uint8))[:, output]

    height, width = item.pixels.shape[1:3]
    steps = (max(1, height // GRID), max(1, width // GRID))
    window = tuple(
        min(WINDOW * step, side) for step, side in zip(steps, (height, width), strict=True)
    )
    # Integers: what is left out is exactly the blank colour, as the decoder could have given it.
    real = (item.ids, item.pixels.long())
    blank = item.blank_pixel.round().long().expand_as(item.pixels)
    text, image = Occlusion(function).attribute(
        real,
        baselines=(torch.full_like(item.ids, item.blank_token), blank),
        sliding_window_shapes=((1,), (*window, 3)),
        strides=((1,), (*steps, 3)),
        perturbations_per_eval=AT_ONCE,
        show_progress=progress,
    )
    tokens = text[0].double().numpy()
    tokens[item.special] = 0.0  # no text is without them
    return Attributions(tokens, image[0, :, :, 0].double().numpy(), averaged=True)
