"""Which weights of an encoder are trained, and how deep each of them lies.

An encoder is taken to be what comes before its layers, the layers, and what comes after them. Its
layers are the first `nn.ModuleList` in it: BERT's and ViT's blocks, ResNet's and ConvNeXt's stages,
EfficientNet's blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from tritium_builders.errors import RecipeError, needs
from tritium_builders.training.recipe import EncoderTable, LoraTable

if TYPE_CHECKING:
    from tritium_builders.models import KnownModule

LORA = "lora_"
"""In the names of weights that peft adds."""
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


def trainable_copy(encoder: KnownModule, table: EncoderTable, name: str) -> nn.Module:
    """A copy of a pretrained encoder, in which what the recipe says can learn.

    Args:
        encoder: Stays as it is.
        table: The recipe's table of it.
        name: `text_encoder` or `image_encoder`, for messages.

    Raises:
        RecipeError: when the encoder has no such layers.
        MissingExtraError: when peft is not installed and LoRA is asked for.
    """
    own: nn.Module = copy.deepcopy(encoder).requires_grad_(False)
    if table.train == "all":
        return own.requires_grad_(True)
    if table.train == "lora":
        return _with_lora(own, table.lora, name)
    places, layers = depths(own), len(_layers(own)[1])
    if table.layers > layers:
        raise RecipeError(
            f"{name}.layers: {table.layers}, and the encoder has {layers}; give at most {layers}, "
            f'or set {name}.train = "all"'
        )
    for key, parameter in own.named_parameters():
        parameter.requires_grad_(places[key] > layers - table.layers)
    return own


def depths(encoder: nn.Module) -> Mapping[str, int]:
    """How deep each parameter lies: 0 before the layers, from 1 in them, one more after them.

    Parameters are in the order in which modules define them, which is that of computation in all
    architectures that are known here.

    Args:
        encoder: An encoder, with or without LoRA.
    """
    prefix, layers = _layers(encoder)
    found, passed = {}, False
    for name, _ in encoder.named_parameters():
        rest = name.removeprefix(f"{prefix}.") if prefix else name
        if layers and rest != name:
            passed = True
            found[name] = 1 + int(rest.partition(".")[0])
        else:
            found[name] = len(layers) + 1 if passed else 0
    return found


def deepest(encoder: nn.Module) -> int:
    """How many layers an encoder has, which is the depth of the last of them."""
    return len(_layers(encoder)[1])


def set_training(encoder: nn.Module, training: bool) -> None:
    """Put what learns into training mode, and all that is frozen into evaluation mode.

    Batch norms always keep the statistics that they were pretrained with: batches of a fine-tuning
    are small and few, and a bundle's answers must not depend on how they were drawn.

    Args:
        encoder: An encoder.
        training: False puts all of it into evaluation mode.
    """
    encoder.training = training and not isinstance(encoder, BATCH_NORMS)
    for child in encoder.children():
        own = list(child.parameters())
        # Dropout has no weights: it does what the module does that holds it.
        learns = any(weight.requires_grad for weight in own) if own else training
        set_training(child, training and learns)


def merge_lora(encoder: nn.Module) -> nn.Module:
    """Add low-rank updates to the weights that they stand beside; the module is a plain one again.

    Args:
        encoder: An encoder; one without LoRA stays as it is.

    Source: peft, `BaseTuner.merge_and_unload`.
    """
    if not any(LORA in name for name, _ in encoder.named_parameters()):
        return encoder
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(encoder.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent, _, own = name.rpartition(".")
            setattr(encoder.get_submodule(parent), own, module.get_base_layer())
    return encoder


def _layers(encoder: nn.Module) -> tuple[str, list[nn.Module]]:
    for name, module in encoder.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) > 0:
            return name, list(module)
    return "", []


def _with_lora(encoder: nn.Module, table: LoraTable, name: str) -> nn.Module:
    with needs("train"):
        from peft import LoraConfig, inject_adapter_in_model

    targets = [key for key, module in encoder.named_modules() if _takes_lora(module)]
    places = depths(encoder)
    inside = [key for key in targets if places[f"{key}.weight"] > 0] or targets
    if not inside:
        raise RecipeError(f'{name}: has no layers that LoRA fits; set {name}.train = "last"')
    alpha: Any = table.alpha  # peft says int, and divides
    config = LoraConfig(
        r=table.rank, lora_alpha=alpha, lora_dropout=table.dropout, target_modules=inside
    )
    inject_adapter_in_model(config, _Configless(encoder))
    return encoder


class _Configless(nn.Module):
    """Hides from peft that our encoders' `config` is not transformers'."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder


def _takes_lora(module: nn.Module) -> bool:
    # peft makes its convolutions of the class that it meets, and classes of one's own take other
    # arguments.
    plain = type(module) is nn.Conv2d and module.groups == 1
    return isinstance(module, nn.Linear) or plain
