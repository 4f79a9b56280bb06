"""What a network is fed with: cached features, or the tokens and pixels of encoders that learn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from tritium_builders.data.dataset import Dataset, Item
from tritium_builders.preprocessing import ImagePreprocessing, TextPreprocessing
from tritium_builders.servables import text_tokenizer
from tritium_builders.training.augmentation import augment_pixels, drop_tokens
from tritium_builders.training.features import Features, pixels_of, token_ids
from tritium_builders.training.recipe import AugmentationTable, LoaderTable
from tritium_client.contract import ATTENTION_MASK, INPUT_IDS


@dataclass(frozen=True)
class Inputs:
    """Some items, as a network takes them: of each modality features, or what is encoded."""

    text: Tensor
    """FP32 features [B, D] or [B, L, D]; INT64 token ids [B, L] for an encoder that learns."""
    text_mask: Tensor | None
    """INT64 [B, L] beside ids and beside features of tokens."""
    image: Tensor
    """FP32 features [B, D] or [B, P, D]; UINT8 pixels [B, H, W, 3] for an encoder that learns."""

    def to(self, device: torch.device) -> Inputs:
        """The same on a device; on the CPU nothing is copied."""
        mask = None if self.text_mask is None else self.text_mask.to(device, non_blocking=True)
        return Inputs(
            self.text.to(device, non_blocking=True), mask, self.image.to(device, non_blocking=True)
        )


Draw = tuple[int, ...]
"""What decides how items are augmented: the same numbers give the same pictures, in whatever
process, and whether or not the training was interrupted."""


@dataclass(frozen=True)
class Texts:
    """All texts of a data set as tokens, which are small."""

    rows: Sequence[Sequence[int]]
    preprocessing: TextPreprocessing
    special: frozenset[int]
    """Ids that `token_dropout` leaves in place."""
    token_dropout: float
    length: int | None
    """To which all are padded, where features of tokens are kept side by side; else each batch is
    padded to its longest."""

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        tokenizer: Tokenizer,
        preprocessing: TextPreprocessing,
        *,
        token_dropout: float,
        sequences: bool,
    ) -> Texts:
        """Tokenize a data set.

        Args:
            dataset: The items.
            tokenizer: Truncates to what the encoder takes.
            preprocessing: The encoder's.
            token_dropout: Probability that a token is left out, when training.
            sequences: Whether the encoder gives features of tokens.

        Raises:
            RecipeError: naming an item whose text cannot be read.
        """
        rows = [token_ids(item, tokenizer, preprocessing) for item in dataset.items]
        return cls(
            rows=rows,
            preprocessing=preprocessing,
            special=frozenset(tokenizer.encode("").ids),
            token_dropout=token_dropout,
            length=max(map(len, rows)) if sequences else None,
        )

    def take(self, indices: Sequence[int], draw: Draw | None) -> tuple[Tensor, Tensor]:
        """Ids and mask, INT64 [B, L] each.

        Args:
            indices: Items.
            draw: How they are augmented; None: not at all.
        """
        rows = [list(self.rows[index]) for index in indices]
        if draw is not None and self.token_dropout > 0:
            rows = [
                drop_tokens(row, self.token_dropout, self.special, random_for(draw, index, 0))
                for row, index in zip(rows, indices, strict=True)
            ]
        own, lengths = self.preprocessing, () if self.length is None else (self.length,)
        padded = text_tokenizer.pad(rows, own.padding_side, own.pad_id, lengths)
        return torch.from_numpy(padded[INPUT_IDS]), torch.from_numpy(padded[ATTENTION_MASK])


@dataclass(frozen=True)
class Pictures:
    """The pictures of a data set, decoded when they are needed."""

    items: Sequence[Item]
    preprocessing: ImagePreprocessing
    augmentation: AugmentationTable

    def take(self, indices: Sequence[int], draw: Draw | None) -> Tensor:
        """Pixels UINT8 [B, H, W, 3].

        Args:
            indices: Items.
            draw: How they are augmented; None: not at all.

        Raises:
            RecipeError: naming an item whose picture cannot be read.
        """
        pixels = [pixels_of(self.items[index], self.preprocessing) for index in indices]
        if draw is not None and self.augmentation.of_pictures:
            pixels = [
                augment_pixels(one, self.augmentation, random_for(draw, index, 1))
                for one, index in zip(pixels, indices, strict=True)
            ]
        return torch.from_numpy(np.stack(pixels))


@dataclass(frozen=True)
class Part:
    """What is computed at once: a batch, or this process's share of it, or a part of that."""

    indices: Tensor
    """INT64 [B], items."""
    draw: Draw


@dataclass(frozen=True)
class Feed:
    """Where a network's inputs come from."""

    features: Features
    """Of frozen encoders, all items."""
    ids: Sequence[str]
    """The items' names, for messages."""
    texts: Texts | None = None
    """In place of the text's features."""
    pictures: Pictures | None = None
    """In place of the image's features."""
    loader: LoaderTable = field(default_factory=LoaderTable)

    def take(self, indices: Tensor, draw: Draw | None = None) -> Inputs:
        """Make the inputs of some items.

        Args:
            indices: INT64 [B].
            draw: How they are augmented; None: not at all.

        Raises:
            RecipeError: naming an item that cannot be read.
        """
        own = self.features.select(indices)
        inputs = Inputs(own.text, own.text_mask, own.image)
        if self.texts is not None:
            ids, mask = self.texts.take(indices.tolist(), draw)
            inputs = replace(inputs, text=ids, text_mask=mask)
        if self.pictures is not None:
            inputs = replace(inputs, image=self.pictures.take(indices.tolist(), draw))
        return inputs

    def stream(self, parts: Sequence[Part], device: torch.device) -> Iterator[Inputs]:
        """Inputs of parts, in their order; pictures are made ready by workers meanwhile.

        Args:
            parts: What is wanted.
            device: Where the network is.
        """
        workers = self._workers(device)
        if workers == 0:
            yield from (self.take(part.indices, part.draw).to(device) for part in parts)
            return
        loader: DataLoader[Inputs] = DataLoader(
            _Parts(self, parts),
            batch_size=None,  # a part is a batch
            num_workers=workers,
            prefetch_factor=self.loader.prefetch,
            generator=torch.Generator(),  # drawing from torch's would change the training
        )
        yield from (inputs.to(device) for inputs in loader)

    def _workers(self, device: torch.device) -> int:
        if self.pictures is None:
            return 0
        if self.loader.workers is not None:
            return self.loader.workers
        return 0 if device.type == "cpu" else min(8, torch.get_num_threads())


class _Parts(TorchDataset[Inputs]):
    def __init__(self, feed: Feed, parts: Sequence[Part]) -> None:
        self.feed, self.parts = feed, parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> Inputs:
        return self.feed.take(self.parts[number].indices, self.parts[number].draw)


def random_for(draw: Draw, index: int, modality: int) -> np.random.Generator:
    """Random numbers for one item and one modality."""
    return np.random.default_rng((*draw, index, modality))
