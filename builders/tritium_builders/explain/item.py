"""One text + image pair as a model sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from tritium_builders.errors import ExplainError
from tritium_builders.reference import FusionModel
from tritium_builders.servables import image_decoder, text_tokenizer

BLANKS = ("[MASK]", "<mask>", "[UNK]", "<unk>")
"""Tokens that say nothing, best first."""


@dataclass(frozen=True)
class TaggedWords:
    """The words of a text that is tagged, and the one whose tag is explained."""

    starts: Tensor
    """INT64 [1, W]: the index of each word's first token."""
    words: tuple[str, ...]
    place: int | None = None
    """Index of the explained one; None: every word's tags are asked for."""

    @property
    def word(self) -> str | None:
        """The explained one, as the text has it."""
        return None if self.place is None else self.words[self.place]


@dataclass(frozen=True)
class ExplainedItem:
    """A text and a picture after preprocessing, and what stands in where something is left out."""

    ids: Tensor
    """INT64 [1, L]."""
    tokens: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    """Of each token, its place in the text; (0, 0) of special tokens."""
    special: npt.NDArray[np.bool_]
    """BOOL [L]: tokens that the tokenizer adds to every text."""
    pixels: Tensor
    """UINT8 [1, H, W, 3]."""
    blank_token: int
    """The id that stands in for a token that is left out."""
    blank_pixel: Tensor
    """FP32 [3]: the picture's mean colour, which stands in for a region that is left out."""
    tagged: TaggedWords | None = None
    """None where the app tags no words."""

    @property
    def mask(self) -> Tensor:
        """INT64 [1, L] of ones."""
        return torch.ones_like(self.ids)


def prepare_item(model: FusionModel, text: str, image: bytes) -> ExplainedItem:
    """Preprocess an item as serving does.

    Args:
        model: Whose tokenizer and preprocessing are used.
        text: The text.
        image: An encoded picture.

    Raises:
        ExplainError: when the text or the picture cannot be read.
    """
    spec, tagged = model.text.servable_spec(), None
    try:
        ids = text_tokenizer.encode(model.tokenizer, text.encode(), spec)
        if model.task == "tagging":
            found = text_tokenizer.encode_words(model.tokenizer, text.encode(), spec)
            words = tuple(text[start:end] for start, end in found.offsets)
            tagged = TaggedWords(torch.tensor([found.starts]), words)
    except ValueError as error:
        raise ExplainError(f"text: {error}; give another text") from error
    try:
        pixels = image_decoder.decode(image, model.image.servable_spec())
    except ValueError as error:
        raise ExplainError(f"image: {error}; give another picture") from error
    encoding = model.tokenizer.encode(text)
    special = np.array(encoding.special_tokens_mask, dtype=bool)
    spans = [(0, 0) if own else span for span, own in zip(encoding.offsets, special, strict=True)]
    tokens = [
        name if own else text[start:end] or name
        for name, (start, end), own in zip(encoding.tokens, spans, special, strict=True)
    ]
    return ExplainedItem(
        ids=torch.tensor([ids]),
        tokens=tuple(tokens),
        spans=tuple(spans),
        special=special,
        pixels=torch.from_numpy(pixels.copy())[None],
        blank_token=_blank_token(model.tokenizer, model.text.pad_id),
        blank_pixel=torch.from_numpy(pixels.reshape(-1, 3).mean(0).astype(np.float32)),
        tagged=tagged,
    )


def _blank_token(tokenizer: Tokenizer, pad_id: int) -> int:
    known = (tokenizer.token_to_id(name) for name in BLANKS)
    return next((found for found in known if found is not None), pad_id)
