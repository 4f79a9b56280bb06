"""Features of the frozen encoders: computed once for a data set, then read from the cache."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from tritium_builders.data.cache import cached_files, content_key
from tritium_builders.data.dataset import Dataset, Item
from tritium_builders.data.progress import track
from tritium_builders.errors import RecipeError
from tritium_builders.models import KnownModule, LoadedImageEncoder, LoadedTextEncoder
from tritium_builders.reference import FusionModel
from tritium_builders.servables import image_decoder, text_tokenizer
from tritium_client.contract import ATTENTION_MASK, INPUT_IDS

TEXT_BATCH = 64
IMAGE_BATCH = 16


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


def compute_features(
    dataset: Dataset, text: LoadedTextEncoder, image: LoadedImageEncoder
) -> Features:
    """Run both encoders over a data set, or read what an earlier run kept.

    What was kept is used only when the weights, the preprocessing, the items and torch's version
    are all the same.

    Args:
        dataset: The items.
        text: The text encoder.
        image: The image encoder.

    Raises:
        RecipeError: naming an item whose text or picture cannot be read.
    """
    model = FusionModel(
        text_encoder=text.module,
        image_encoder=image.module,
        fusion_head=nn.Identity(),  # only the encoders' side of the model is used here
        tokenizer=_tokenizer(text),
        text=text.preprocessing,
        image=image.preprocessing,
        task=dataset.task,
    ).eval()
    by_words = b"words" if dataset.task == "tagging" else b""
    described = text.preprocessing.model_dump_json()
    text_key = _key(dataset, text.module, described, text.tokenizer_json + by_words)
    image_key = _key(dataset, image.module, image.preprocessing.model_dump_json())
    text_arrays = cached_files("text-features", text_key, lambda: _text_files(dataset, model))
    image_arrays = cached_files("image-features", image_key, lambda: _image_files(dataset, model))
    pooled = text.module.pooling != "none"
    return Features(
        text=_load(text_arrays["features"]),
        text_mask=None if pooled else _load(text_arrays["mask"]),
        image=_load(image_arrays["features"]),
        offsets=_load(text_arrays["offsets"]) if by_words else None,
    )


def _tokenizer(text: LoadedTextEncoder) -> Tokenizer:
    tokenizer = Tokenizer.from_buffer(text.tokenizer_json)
    tokenizer.enable_truncation(max_length=text.preprocessing.max_length)
    return tokenizer


def _key(dataset: Dataset, module: KnownModule, preprocessing: str, extra: bytes = b"") -> str:
    weights = (
        part
        for name, tensor in sorted(module.state_dict().items())
        for part in (name.encode(), tensor.numpy().tobytes())
    )
    described = f"{module.kind} {sorted(module.config().items())} {preprocessing}"
    versions = f"torch {torch.__version__}"
    return content_key(
        [dataset.content_hash.encode(), described.encode(), versions.encode(), extra, *weights]
    )


@torch.inference_mode()
def _text_files(dataset: Dataset, model: FusionModel) -> dict[str, bytes]:
    if model.task == "tagging":
        return _word_files(dataset, model)
    rows = [_token_ids(item, model) for item in dataset.items]
    mask = text_tokenizer.pad(rows, "right", model.text.pad_id)["attention_mask"]
    outputs: list[np.ndarray[Any, Any]] = [np.empty(0)] * len(rows)
    # Texts of like length go together, so that little is spent on padding.
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    batches = [order[start : start + TEXT_BATCH] for start in range(0, len(order), TEXT_BATCH)]
    for batch in track(batches, "Encoding texts", total=len(batches)):
        padded = text_tokenizer.pad(
            [rows[index] for index in batch], model.text.padding_side, model.text.pad_id
        )
        ids, here = (torch.from_numpy(padded[name]) for name in (INPUT_IDS, ATTENTION_MASK))
        features = model.encode_text(ids, here)
        for position, index in enumerate(batch):
            own = features[position]
            outputs[index] = (own[here[position] == 1] if own.ndim == 2 else own).numpy()
    if outputs[0].ndim == 1:
        return {"features": _dump(np.stack(outputs)), "mask": _dump(mask)}
    sequences = np.zeros((*mask.shape, outputs[0].shape[-1]), dtype=np.float32)
    sequences[mask == 1] = np.concatenate(outputs)
    return {"features": _dump(sequences), "mask": _dump(mask)}


@torch.inference_mode()
def _image_files(dataset: Dataset, model: FusionModel) -> dict[str, bytes]:
    items = dataset.items
    batches = [items[start : start + IMAGE_BATCH] for start in range(0, len(items), IMAGE_BATCH)]
    outputs = []
    for batch in track(batches, "Encoding pictures", total=len(batches)):
        pixels = np.stack([_pixels(item, model) for item in batch])
        outputs.append(model.encode_image(torch.from_numpy(pixels)).numpy())
    return {"features": _dump(np.concatenate(outputs))}


def _word_files(dataset: Dataset, model: FusionModel) -> dict[str, bytes]:
    """A row of features for each word, and where the words are."""
    spec = model.text.servable_spec()
    words = [_words(item, model, spec) for item in dataset.items]
    most = max(len(one.starts) for one in words)
    mask = np.zeros((len(words), most), dtype=np.int64)
    offsets = np.zeros((len(words), most, 2), dtype=np.int64)
    found: list[npt.NDArray[np.float32]] = []
    for index, one in enumerate(track(words, "Encoding words", total=len(words))):
        ids = torch.tensor([one.ids])
        own = model.encode_text(ids, torch.ones_like(ids), torch.tensor([one.starts]))[0].numpy()
        mask[index, : len(own)], offsets[index, : len(own)] = 1, one.offsets
        found.append(own)
    rows = np.zeros((len(words), most, found[0].shape[-1]), dtype=np.float32)
    rows[mask == 1] = np.concatenate(found)
    return {"features": _dump(rows), "mask": _dump(mask), "offsets": _dump(offsets)}


def _words(item: Item, model: FusionModel, spec: dict[str, Any]) -> text_tokenizer.Words:
    try:
        return text_tokenizer.encode_words(model.tokenizer, item.text.encode(), spec)
    except ValueError as error:
        raise RecipeError(f"item {item.id}: text: {error}; mend or remove the item") from error


def _token_ids(item: Item, model: FusionModel) -> list[int]:
    spec = model.text.servable_spec()
    try:
        return text_tokenizer.encode(model.tokenizer, item.text.encode(), spec)
    except ValueError as error:
        raise RecipeError(f"item {item.id}: text: {error}; mend or remove the item") from error


def _pixels(item: Item, model: FusionModel) -> npt.NDArray[np.uint8]:
    try:
        return image_decoder.decode(item.read_image(), model.image.servable_spec())
    except ValueError as error:
        raise RecipeError(f"item {item.id}: image: {error}; mend or remove the item") from error


def _dump(array: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _load(content: bytes) -> Tensor:
    return torch.from_numpy(np.load(io.BytesIO(content), allow_pickle=False))
