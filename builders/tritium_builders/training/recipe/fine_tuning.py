"""`[text_encoder]` and `[image_encoder]` that are trained, `[augmentation]`, `[loader]`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tritium_builders.training.recipe.table import Table

Train = Literal["none", "last", "all", "lora"]
"""What of an encoder is trained."""


class LoraTable(Table):
    """`[text_encoder.lora]`, `[image_encoder.lora]`: low-rank updates beside frozen weights.

    Source: Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models".
    """

    rank: int = Field(default=8, ge=1, le=512)
    alpha: int = Field(default=16, ge=1)
    """Updates are scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on what the updates read."""


class EncoderTable(Table):
    """What both encoders' tables share: whether and how they are trained."""

    train: Train = "none"
    """`none`: frozen, its features are computed once. `last`: its last `layers` and what comes
    after them. `all`. `lora`: low-rank updates of its linear layers and convolutions, merged into
    the weights before the bundle is written."""
    layers: int = Field(default=2, ge=1)
    """train = "last": how many; of ResNet and ConvNeXt stages, of EfficientNet blocks."""
    lora: LoraTable = LoraTable()

    @model_validator(mode="after")
    def _settings_are_used(self) -> EncoderTable:
        for name, needed in (("layers", "last"), ("lora", "lora")):
            default = type(self).model_fields[name].default
            if self.train != needed and getattr(self, name) != default:
                raise ValueError(f'{name} is for train = "{needed}", and train is "{self.train}"')
        return self


class AugmentationTable(Table):
    """`[augmentation]`: how training items are changed, anew in every epoch; off by default.

    Only where the encoder is trained: frozen encoders' features are computed once.
    """

    random_resized_crop: float = Field(default=1.0, gt=0, le=1)
    """The smallest part of a picture's area that is kept; 1 keeps all. What is kept is stretched
    to the encoder's size. Source: Szegedy et al. 2015, section 6."""
    flip: bool = False
    """Mirror half of the pictures. Not where left and right mean something."""
    colour_jitter: float = Field(default=0.0, ge=0, lt=1)
    """By how much brightness, contrast and saturation vary: 0.2 is 80 to 120 %."""
    random_erasing: float = Field(default=0.0, ge=0, le=1)
    """Probability that a rectangle (2 to 33 % of a picture) becomes noise. Source: Zhong et al.
    2020, "Random Erasing Data Augmentation"."""
    token_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability that a token is left out; special ones stay. Source: Iyyer et al. 2015, "Deep
    Unordered Composition Rivals Syntactic Methods for Text Classification", section 3.2."""

    @property
    def of_pictures(self) -> bool:
        """Whether pictures are changed."""
        return (
            self.random_resized_crop < 1
            or self.flip
            or self.colour_jitter > 0
            or self.random_erasing > 0
        )


class LoaderTable(Table):
    """`[loader]`: how pictures reach an image encoder that is trained."""

    workers: int | None = Field(default=None, ge=0, le=64)
    """Processes that decode and augment. Default: none where a CPU trains, which has no cores to
    spare; else one for each core, at most 8."""
    prefetch: int = Field(default=2, ge=1, le=64)
    """Batches that each worker holds ready: workers x prefetch batches of pixels is the memory."""
