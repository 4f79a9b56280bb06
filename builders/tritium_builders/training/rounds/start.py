"""What a bundle brings to the next round: its encoders stay, its head is trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import safetensors.torch
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from tritium_builders.bundle import TOKENIZER, Bundle
from tritium_builders.errors import RecipeError
from tritium_builders.models.fusion import FusionHead, HybridFusion, TemperatureScaled
from tritium_builders.models.known import KnownModule

if TYPE_CHECKING:
    from tritium_builders.models import LoadedImageEncoder, LoadedTextEncoder
    from tritium_builders.training.recipe import Recipe

Encoder = TypeVar("Encoder", bound=KnownModule)
NOT_SHAPE = ("labels", "dropout", "modality_dropout")
"""Settings of a head that may differ: labels may be added, and dropout has no weights."""


@dataclass(frozen=True)
class Start:
    """The weights of a trained head, for one that may have more labels."""

    state: Mapping[str, Tensor]
    labels: int
    """How many labels it has; they are the first ones of the new head."""

    @property
    def content_hash(self) -> str:
        """SHA-256 of the weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state.items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def apply(self, head: FusionHead) -> None:
        """Copy the weights; rows of new labels keep what they were initialised with.

        Args:
            head: Of the same strategy and sizes, with as many labels or more.
        """
        for name, tensor in head.state_dict().items():
            old = self.state[name]
            tensor[tuple(slice(size) for size in old.shape)].copy_(old)


def encoders_of(
    bundle: Bundle, recipe: Recipe, text: LoadedTextEncoder, image: LoadedImageEncoder
) -> tuple[LoadedTextEncoder, LoadedImageEncoder]:
    """Take a bundle's encoders, which may have learned since the recipe's were loaded.

    Args:
        bundle: The bundle.
        recipe: What trains it on.
        text: The recipe's encoder.
        image: Likewise.

    Returns:
        Both, with the bundle's weights.

    Raises:
        RecipeError: when the recipe names another encoder; says which, in what it differs, and
            the fix.
    """
    manifest = bundle.manifest
    ours = Tokenizer.from_buffer(text.tokenizer_json).to_str()
    theirs = (bundle.folder / TOKENIZER).read_text(encoding="utf-8")
    same_text = {"tokenizer": ours == theirs, "preprocessing": manifest.text == text.preprocessing}
    same_image = {"preprocessing": manifest.image == image.preprocessing}
    return (
        replace(text, module=_module(bundle, recipe, "text_encoder", text.module, same_text)),
        replace(image, module=_module(bundle, recipe, "image_encoder", image.module, same_image)),
    )


def _module(
    bundle: Bundle, recipe: Recipe, name: str, module: Encoder, same: dict[str, bool]
) -> Encoder:
    from tritium_builders.graphs import architectures, load_module

    folder, source = bundle.folder / name, getattr(recipe, name).source
    same["architecture"] = architectures(bundle)[name] == module.kind
    if same["architecture"]:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        same["config"] = config == json.loads(json.dumps(module.config()))
    if all(same.values()):
        if _equal(module, folder / "model.safetensors"):
            return module
        # It has learned, if it began as what the recipe names; else it is another one.
        same["set of weights"] = source == _source(bundle, name)
    for what, is_same in same.items():
        if not is_same:
            raise RecipeError(
                f"{bundle.folder}: its {name.replace('_', ' ')} has another {what} than {source}; "
                "name the one that it was trained with, or train without --from"
            )
    own: Any = load_module(bundle, name, module.kind)
    learned: Encoder = own.requires_grad_(False)
    return learned


def _equal(module: nn.Module, path: Path) -> bool:
    kept = safetensors.torch.load_file(path)
    own = module.state_dict()
    return all(name in own and torch.equal(own[name], tensor) for name, tensor in kept.items())


def _source(bundle: Bundle, name: str) -> str | None:
    """What the recipe that made the bundle called its encoder."""
    try:
        content = json.loads((bundle.folder / "recipe.json").read_text(encoding="utf-8"))
        return str(content[name]["source"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def make_start(bundle: Bundle, recipe: Recipe) -> tuple[Start, nn.Module]:
    """Take the head's weights out of a bundle.

    Args:
        bundle: The bundle.
        recipe: Names the head that is to be trained on.

    Returns:
        What the new head starts with, and the old one as it answers.

    Raises:
        RecipeError: when the recipe's head is another one.
    """
    from tritium_builders.graphs import load_module

    manifest = bundle.manifest
    if manifest.task != "classification" or recipe.task != "classification":
        raise RecipeError(
            f"{bundle.folder}: --from is for classification, and this goes from {manifest.task} "
            f"to {recipe.task}; train without --from"
        )
    if recipe.ensemble is not None:
        raise RecipeError(
            "--from trains one head on, and the recipe has an [ensemble]; train that without --from"
        )
    module = load_module(bundle, "fusion_head", manifest.fusion_head.architecture)
    head = module.head if isinstance(module, TemperatureScaled) else module
    if isinstance(head, HybridFusion):
        head = head.fusion  # those beside it are trained anew: they are what it is compared with
    if not isinstance(head, FusionHead) or head.kind != recipe.fusion.strategy:
        kind = head.kind if isinstance(head, FusionHead) else manifest.fusion_head.architecture
        raise RecipeError(
            f"{bundle.folder}: its head is {kind!r} and the recipe's is "
            f"{recipe.fusion.strategy!r}; a head is trained on by a recipe with the same one"
        )
    for name, value in head.config().items():
        wanted = getattr(recipe.fusion, name, value)
        if name not in NOT_SHAPE and value != wanted:
            raise RecipeError(
                f"{bundle.folder}: its head has {name} {value} and the recipe {wanted}; "
                f"say fusion.{name} = {value}, or train without --from"
            )
    state = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    return Start(state, len(manifest.labels)), module
