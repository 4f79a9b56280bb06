"""What encoders that are adapted read: tokens and pixels, as the server will make them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from torch import nn

from tritium_builders.data import Item
from tritium_builders.errors import RecipeError
from tritium_builders.models import LoadedImageEncoder, LoadedTextEncoder
from tritium_builders.reference import FusionModel
from tritium_builders.servables import image_decoder, text_tokenizer


def model_of(text: LoadedTextEncoder, image: LoadedImageEncoder) -> FusionModel:
    """The encoders' side of a model; its head is not to be used."""
    tokenizer = Tokenizer.from_buffer(text.tokenizer_json)
    tokenizer.enable_truncation(max_length=text.preprocessing.max_length)
    return FusionModel(
        text_encoder=text.module,
        image_encoder=image.module,
        fusion_head=nn.Identity(),
        tokenizer=tokenizer,
        text=text.preprocessing,
        image=image.preprocessing,
    )


def token_ids_of(item: Item, model: FusionModel) -> list[int]:
    """Tokenize an item's text.

    Raises:
        RecipeError: naming the item whose text cannot be read.
    """
    try:
        return text_tokenizer.encode(
            model.tokenizer, item.text.encode(), model.text.servable_spec()
        )
    except ValueError as error:
        raise RecipeError(f"item {item.id}: text: {error}; mend or remove the item") from error


def pixels_of(item: Item, model: FusionModel) -> npt.NDArray[np.uint8]:
    """Decode an item's picture, UINT8 [H, W, 3].

    Raises:
        RecipeError: naming the item whose picture cannot be read.
    """
    try:
        return image_decoder.decode(item.read_image(), model.image.servable_spec())
    except ValueError as error:
        raise RecipeError(f"item {item.id}: image: {error}; mend or remove the item") from error
