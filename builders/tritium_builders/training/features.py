"""Features of the frozen encoders: computed once for each text and picture, in any data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from torch import Tensor, nn

from tritium_builders.data.array_cache import ArrayCache
from tritium_builders.data.cache import content_key
from tritium_builders.data.dataset import Dataset, Item
from tritium_builders.data.progress import track
from tritium_builders.errors import RecipeError
from tritium_builders.models import LoadedImageEncoder, LoadedTextEncoder
from tritium_builders.preprocessing import ImagePreprocessing, TextPreprocessing
from tritium_builders.reference import FusionModel
from tritium_builders.servables import image_decoder, text_tokenizer
from tritium_builders.training.known_encoders import fingerprint
from tritium_client.contract import ATTENTION_MASK, PIXELS

if TYPE_CHECKING:
    from tritium_builders.training.encoder_runs import EncoderRun, Inputs

MANY = 256
"""Items of a data set from which exporting a graph takes less time than it saves."""
TEXT_BATCH = 32
IMAGE_BATCH = 8
CHECKED = 8
"""Items on which OpenVINO and PyTorch must agree."""
SHARD_BYTES = 64 << 20
"""What was computed is kept whenever it is as much, so that a run that ends early loses little."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Features:
    """Both encoders' features of a data set, in its order."""

    text: Tensor
    """FP32 [N, D], or [N, L, D] padded on the right."""
    text_mask: Tensor | None
    """INT64 [N, L] beside a sequence, 1 for a token; None beside pooled features."""
    image: Tensor
    """FP32 [N, D], or [N, P, D]."""
    offsets: Tensor | None = None
    """INT64 [N, W, 2]: where the words of texts that are tagged begin and end. `text` and its mask
    have a row for each word then."""

    def select(self, indices: Tensor) -> Features:
        """Take some items.

        Args:
            indices: INT64 [M].
        """
        mask = None if self.text_mask is None else self.text_mask[indices]
        offsets = None if self.offsets is None else self.offsets[indices]
        return Features(self.text[indices], mask, self.image[indices], offsets)

    def to(self, device: torch.device) -> Features:
        """The same on a device; what is there already is not copied."""
        mask = None if self.text_mask is None else self.text_mask.to(device)
        return replace(self, text=self.text.to(device), text_mask=mask, image=self.image.to(device))


def compute_features(
    dataset: Dataset, text: LoadedTextEncoder, image: LoadedImageEncoder
) -> Features:
    """Run both encoders over a data set; for what an earlier run kept, nothing is computed.

    What was kept is used only when the weights, the preprocessing, the text or picture and the
    libraries' versions are all the same. The encoders are not even loaded when all is there.

    Args:
        dataset: The items.
        text: The text encoder.
        image: The image encoder.

    Raises:
        RecipeError: naming an item whose text or picture cannot be read.
    """
    images = _image_rows(dataset.items, image)
    image_features = np.stack(images) if image.pooling == "none" else _flat(images)
    mask = offsets = None
    if dataset.task == "tagging":
        text_features, mask, offsets = _words(dataset.items, text)
    elif text.pooling == "none":
        text_features, mask = _padded(_text_rows(dataset.items, text, _ids))
    else:
        text_features = _flat(_text_rows(dataset.items, text, _ids))
    return Features(
        text=torch.from_numpy(text_features),
        text_mask=None if mask is None else torch.from_numpy(mask),
        image=torch.from_numpy(image_features),
        offsets=None if offsets is None else torch.from_numpy(offsets),
    )


def _words(items: Sequence[Item], text: LoadedTextEncoder) -> tuple[Array, Array, Array]:
    """A row of features for each word [N, W, D], the words' mask and where they are."""
    rows = _text_rows(items, text, _word_ids)
    model = _model(text=text)
    words = [_words_of(item, model) for item in items]
    features, mask = _padded([row[one.starts] for row, one in zip(rows, words, strict=True)])
    offsets = np.zeros((*mask.shape, 2), dtype=np.int64)
    for index, one in enumerate(words):
        offsets[index, : len(one.offsets)] = one.offsets
    return features, mask, offsets


def truncating_tokenizer(text: LoadedTextEncoder) -> Tokenizer:
    """The encoder's tokenizer, which cuts texts to what the encoder takes."""
    tokenizer = Tokenizer.from_buffer(text.tokenizer_json)
    tokenizer.enable_truncation(max_length=text.preprocessing.max_length)
    return tokenizer


def _flat(rows: Sequence[Array]) -> Array:
    """Pooled features [N, D] of rows [1, D]."""
    return np.concatenate(rows)


def _padded(rows: Sequence[Array]) -> tuple[Array, Array]:
    """Sequences [N, L, D] with zeros for padding, and their mask [N, L], of rows [own L, D]."""
    longest = max(map(len, rows))
    features = np.zeros((len(rows), longest, rows[0].shape[-1]), dtype=np.float32)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for index, row in enumerate(rows):
        features[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return features, mask


def _text_rows(
    items: Sequence[Item],
    text: LoadedTextEncoder,
    ids_of: Callable[[Item, FusionModel], list[int]],
) -> list[Array]:
    """For each item its text's features, [1, D] or [tokens, D]."""
    # What runs encoders is imported when one has to run: it takes a part of a second.
    names = [hashlib.sha256(item.text.encode()).hexdigest() for item in items]
    many = len(items) >= MANY

    def compute(missing: Mapping[str, Item]) -> Iterator[tuple[str, Array]]:
        from tritium_builders.training.encoder_runs import encoder_run

        model = _model(text=text)
        rows = {name: ids_of(item, model) for name, item in missing.items()}
        # Texts of like length go together, so that little is spent on padding.
        order = sorted(rows, key=lambda name: len(rows[name]))

        def inputs(batch: Sequence[str]) -> Inputs:
            side, pad = model.text.padding_side, model.text.pad_id
            return text_tokenizer.pad([rows[name] for name in batch], side, pad)

        engine = encoder_run(model, "text", [inputs(batch) for batch in _samples(order)], fast=many)

        def encode(batch: Sequence[str]) -> list[Array]:
            padded = inputs(batch)
            features = engine.run(padded)
            if features.ndim == 2:
                return list(features[:, None])
            here = padded[ATTENTION_MASK] == 1
            return [own[mask] for own, mask in zip(features, here, strict=True)]

        return _encoded(engine, encode, _batches(order, TEXT_BATCH), "Encoding texts")

    cache = ArrayCache("text-features", _key(text, ids_of.__name__, many=many))
    return _through(cache, dict(zip(names, items, strict=True)), names, compute)


def _image_rows(items: Sequence[Item], image: LoadedImageEncoder) -> list[Array]:
    """For each item its picture's features, [1, D] or [patches, D]."""
    names = [item.image_hash for item in items]
    many = len(items) >= MANY

    def compute(missing: Mapping[str, Item]) -> Iterator[tuple[str, Array]]:
        from tritium_builders.training.encoder_runs import encoder_run

        model = _model(image=image)

        def inputs(batch: Sequence[str]) -> Inputs:
            return {PIXELS: np.stack([pixels_of(missing[name], model.image) for name in batch])}

        order = list(missing)
        engine = encoder_run(
            model, "image", [inputs(batch) for batch in _samples(order)], fast=many
        )

        def encode(batch: Sequence[str]) -> list[Array]:
            features = engine.run(inputs(batch))
            return list(features[:, None] if features.ndim == 2 else features)

        return _encoded(engine, encode, _batches(order, IMAGE_BATCH), "Encoding pictures")

    cache = ArrayCache("image-features", _key(image, "pixels", many=many))
    return _through(cache, dict(zip(names, items, strict=True)), names, compute)


def _through(
    cache: ArrayCache,
    items: Mapping[str, Item],
    names: Sequence[str],
    compute: Callable[[Mapping[str, Item]], Iterator[tuple[str, Array]]],
) -> list[Array]:
    """Read rows, compute those that are missing, and keep them shard by shard."""
    found = cache.read(items.keys())
    missing = {name: item for name, item in items.items() if name not in found}
    waiting: dict[str, Array] = {}
    for name, row in compute(missing) if missing else ():
        found[name] = waiting[name] = row
        if len(waiting) * row.nbytes >= SHARD_BYTES:
            cache.write(waiting)
            waiting = {}
    cache.write(waiting)
    return [found[name] for name in names]


def _encoded(
    engine: EncoderRun,
    encode: Callable[[Sequence[str]], list[Array]],
    batches: Sequence[Sequence[str]],
    description: str,
) -> Iterator[tuple[str, Array]]:
    answers = track(engine.over(encode, batches), description, total=len(batches))
    for batch, answer in zip(batches, answers, strict=True):
        yield from zip(batch, answer, strict=True)


def _batches(names: Sequence[str], size: int) -> list[Sequence[str]]:
    return [names[at : at + size] for at in range(0, len(names), size)]


def _samples(names: Sequence[str]) -> list[Sequence[str]]:
    """Pairs of items from all over, on which OpenVINO and PyTorch are compared."""
    return _batches(names[:: max(1, len(names) // CHECKED)][:CHECKED], 2)


def _key(encoder: LoadedTextEncoder | LoadedImageEncoder, inputs: str, *, many: bool) -> str:
    libraries = ("torch", "openvino") if many else ("torch",)
    versions = [f"{name} {metadata.version(name)}" for name in libraries]
    return content_key(part.encode() for part in (fingerprint(encoder), inputs, *versions))


def _model(
    text: LoadedTextEncoder | None = None, image: LoadedImageEncoder | None = None
) -> FusionModel:
    """The reference model with one of the encoders; what is not there is not used."""
    tokenizer = Tokenizer(BPE())
    if text is not None:
        tokenizer = truncating_tokenizer(text)
    return FusionModel(
        text_encoder=nn.Identity() if text is None else text.module,
        image_encoder=nn.Identity() if image is None else image.module,
        fusion_head=nn.Identity(),
        tokenizer=tokenizer,
        text=TextPreprocessing(max_length=2) if text is None else text.preprocessing,
        image=ImagePreprocessing(size=1) if image is None else image.preprocessing,
    ).eval()


def token_ids(item: Item, tokenizer: Tokenizer, preprocessing: TextPreprocessing) -> list[int]:
    """Tokenize an item's text as the servable does.

    Args:
        item: The item.
        tokenizer: Truncates to what the encoder takes.
        preprocessing: The text encoder's.

    Raises:
        RecipeError: naming the item.
    """
    spec = preprocessing.servable_spec()
    try:
        return text_tokenizer.encode(tokenizer, item.text.encode(), spec)
    except ValueError as error:
        raise RecipeError(f"item {item.id}: text: {error}; mend or remove the item") from error


def _ids(item: Item, model: FusionModel) -> list[int]:
    return token_ids(item, model.tokenizer, model.text)


def _word_ids(item: Item, model: FusionModel) -> list[int]:
    return _words_of(item, model).ids


def _words_of(item: Item, model: FusionModel) -> text_tokenizer.Words:
    spec = model.text.servable_spec()
    try:
        return text_tokenizer.encode_words(model.tokenizer, item.text.encode(), spec)
    except ValueError as error:
        raise RecipeError(f"item {item.id}: text: {error}; mend or remove the item") from error


def pixels_of(item: Item, preprocessing: ImagePreprocessing) -> npt.NDArray[np.uint8]:
    """Decode an item's picture as the servable does, UINT8 [H, W, 3].

    Args:
        item: The item.
        preprocessing: The image encoder's.

    Raises:
        RecipeError: naming the item.
    """
    try:
        return image_decoder.decode(item.read_image(), preprocessing.servable_spec())
    except ValueError as error:
        raise RecipeError(f"item {item.id}: image: {error}; mend or remove the item") from error
