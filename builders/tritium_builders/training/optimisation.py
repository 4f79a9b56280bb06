"""Optimiser, learning rates and their schedule, the length of gradients, and their precision."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tritium_builders.training.network import FusionNetwork
from tritium_builders.training.recipe import OptimiserTable
from tritium_builders.training.trainable import LORA, deepest, depths

ENCODER_RATE = 2e-5
LORA_RATE = 2e-4
"""Source: Hu et al. 2022, appendix D: 2e-4 to 5e-4 where full fine-tuning takes about 1e-5."""


def make_optimiser(network: FusionNetwork, table: OptimiserTable) -> torch.optim.Optimizer:
    """Make the optimiser of all weights that learn.

    Args:
        network: Head and encoders.
        table: The recipe's table.
    """
    groups = parameter_groups(network, table)
    if table.kind == "sgd":
        return torch.optim.SGD(groups, lr=table.learning_rate, momentum=table.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=table.learning_rate, fused=True)


def parameter_groups(network: FusionNetwork, table: OptimiserTable) -> list[dict[str, Any]]:
    """Sort weights by learning rate and weight decay.

    Args:
        network: Head and encoders.
        table: The recipe's table.

    Returns:
        The head's weights first, then each encoder's, by rate and decay. `peak` is the group's
        learning rate before the schedule has its say.
    """
    found: dict[tuple[str, float, float], list[nn.Parameter]] = {}
    for parameter in network.head.parameters():
        decay = table.weight_decay if table.decay_biases or parameter.ndim > 1 else 0.0
        found.setdefault(("head", table.learning_rate, decay), []).append(parameter)
    for name in ("text_encoder", "image_encoder"):
        encoder = getattr(network, name)
        if encoder is None:
            continue
        places, top = depths(encoder), deepest(encoder)
        for key, parameter in encoder.named_parameters():
            if parameter.requires_grad:
                # What comes after the layers learns like the last of them.
                below = top - min(places[key], top)
                rate = encoder_rate(key, table) * table.layer_decay**below
                decay = table.weight_decay if parameter.ndim > 1 else 0.0
                found.setdefault((name, rate, decay), []).append(parameter)
    return [
        {"params": weights, "lr": rate, "peak": rate, "weight_decay": decay}
        for (_, rate, decay), weights in found.items()
    ]


def encoder_rate(name: str, table: OptimiserTable) -> float:
    """The learning rate of an encoder's weight before layer decay.

    Args:
        name: Of the weight.
        table: The recipe's table.
    """
    if table.encoder_learning_rate is not None:
        return table.encoder_learning_rate
    return LORA_RATE if LORA in name else ENCODER_RATE


def rate_factor(step: int, steps: int, table: OptimiserTable) -> float:
    """What learning rates are multiplied with at a step, 0 to 1.

    Args:
        step: Counted from 0.
        steps: Of all epochs.
        table: The recipe's table.
    """
    warmup = round(table.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if table.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def set_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to that part of its own peak."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor


def clip(parameters: Iterable[nn.Parameter], longest: float | None) -> None:
    """Shorten the gradient to a norm of `longest`; None leaves it.

    Source: Pascanu et al. 2013, "On the Difficulty of Training Recurrent Neural Networks".
    """
    if longest is not None:
        nn.utils.clip_grad_norm_(parameters, longest)


def computing_in(
    table: OptimiserTable, network: FusionNetwork
) -> contextlib.AbstractContextManager[Any]:
    """Compute in bfloat16 where the recipe and the hardware allow it.

    Args:
        table: The recipe's table.
        network: Where it is, and whether encoders learn.
    """
    device = network.device.type
    wanted = table.precision == "bf16" or (
        table.precision == "auto" and bool(network.encoders) and computes_bf16(device)
    )
    return torch.autocast(device, torch.bfloat16) if wanted else contextlib.nullcontext()


def computes_bf16(device: str) -> bool:
    """Whether a device has units for bfloat16, and not only a way to emulate it.

    Args:
        device: `cpu` or `cuda`.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    from tritium_builders.cpu import has_bf16

    return has_bf16()
