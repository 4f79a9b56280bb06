"""What PyTorch answers: the truth that every gate compares with.

A `FusionModel` is a text encoder, an image encoder and a fusion head as ordinary torch modules,
with their preprocessing. It answers one item at a time and unpadded, as a caller's own script
would, and keeps what every stage said on the way.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from tritium_builders.bundle_schema import FEATURE_TENSORS, FeatureKind
from tritium_builders.errors import BundleError
from tritium_builders.preprocessing import ImagePreprocessing, TextPreprocessing
from tritium_builders.samples import Sample, modalities_key
from tritium_builders.servables import image_decoder, text_tokenizer
from tritium_builders.tasks import to_answers
from tritium_client.contract import INPUT_IDS, OFFSETS, PIXELS, WORD_STARTS, Modality, Task

_TEXT_MASK_NAMES = ("text_mask", "attention_mask")


@dataclass(frozen=True)
class Answer:
    """What every stage said about one item."""

    input_ids: npt.NDArray[np.int64]
    """INT64 [tokens]."""
    pixels: npt.NDArray[np.uint8]
    """UINT8 [height, width, 3]."""
    text_features: npt.NDArray[np.float32]
    """FP32 [D], [tokens, D], or of a text that is tagged [words, D]."""
    image_features: npt.NDArray[np.float32]
    """FP32 [D] or [patches, D]."""
    values: Mapping[str, npt.NDArray[np.float32]]
    """What a caller gets, by `modalities_key`: FP32 [labels], [scores] or [D]; of a text that is
    tagged [words, labels]."""
    word_starts: npt.NDArray[np.int64] | None = None
    """INT64 [words], the index of each word's first token; of a text that is tagged."""
    offsets: npt.NDArray[np.int64] | None = None
    """INT64 [words, 2], where each word begins and ends in the text; likewise."""


def features_of(output: Any, module: str) -> Tensor:
    """Take the features out of what an encoder returned.

    A tensor is taken as it is; of a Hugging Face `ModelOutput` the last hidden state is taken.

    Raises:
        BundleError: for anything else.
    """
    if isinstance(output, Tensor):
        return output
    hidden = getattr(output, "last_hidden_state", None)
    if isinstance(hidden, Tensor):
        return hidden
    raise BundleError(
        file=module,
        field="forward",
        problem=f"returns {type(output).__name__}",
        fix="return one tensor, [batch, D] or [batch, tokens or patches, D]",
    )


def normalise(pixels: Tensor, image: ImagePreprocessing) -> Tensor:
    """Turn uint8 [B, H, W, 3] pixels into what an image encoder takes, FP32 [B, 3, H, W]."""
    # Floats first: TensorRT takes UINT8 as an input, and the only thing that it does with it
    # is a cast.
    scaled = pixels.float().permute(0, 3, 1, 2) * image.rescale_factor
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=pixels.device).reshape(1, 3, 1, 1)
        for values in (image.mean, image.std)
    )
    return (scaled - mean) / std


@dataclass(frozen=True)
class FusionModel:
    """A text + image model in PyTorch.

    `text_encoder(input_ids, attention_mask)`, both int64 [B, L], gives float [B, D] or [B, L, D];
    `image_encoder(pixel_values)`, normalised float32 [B, 3, H, W], gives [B, D] or [B, P, D];
    `fusion_head(text, image)`, either None when absent, gives logits [B, labels]. A head over a
    text sequence may take a third argument named `text_mask` or `attention_mask`, int64 [B, L].

    A head that tags takes one row for each word, [B, W, D] with a mask [B, W], and gives logits
    [B, W, labels].
    """

    text_encoder: nn.Module
    image_encoder: nn.Module
    fusion_head: nn.Module
    tokenizer: Tokenizer
    text: TextPreprocessing
    image: ImagePreprocessing
    task: Task = "classification"

    @cached_property
    def head_takes_mask(self) -> bool:
        """Whether the fusion head wants the text's attention mask."""
        parameters = inspect.signature(self.fusion_head.forward).parameters
        return any(name in parameters for name in _TEXT_MASK_NAMES)

    def encode_text(self, ids: Tensor, mask: Tensor, starts: Tensor | None = None) -> Tensor:
        """Run the text encoder on int64 [B, L] ids and mask.

        Args:
            ids: INT64 [B, L].
            mask: INT64 [B, L].
            starts: INT64 [B, W], the index of each word's first token, -1 for padding; of a text
                that is tagged, which gives [B, W, D].
        """
        features = features_of(self.text_encoder(ids, mask), "text_encoder")
        if starts is None:
            return features
        index = starts.clamp(min=0).unsqueeze(-1).expand(-1, -1, features.shape[-1])
        return features.gather(1, index)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Normalise uint8 [B, H, W, 3] pixels and run the image encoder."""
        return features_of(self.image_encoder(normalise(pixels, self.image)), "image_encoder")

    def fuse(self, text: Tensor | None, image: Tensor | None, mask: Tensor | None) -> Tensor:
        """Run the fusion head; gives logits [B, labels], of words [B, W, labels]."""
        extra = (mask,) if self.head_takes_mask else ()
        logits = self.fusion_head(text, image, *extra)
        axes = 3 if self.task == "tagging" else 2
        if not isinstance(logits, Tensor) or logits.ndim != axes:
            wanted = "[batch, words, labels]" if axes == 3 else "[batch, labels]"
            raise BundleError(
                file="fusion_head",
                field="forward",
                problem=f"does not return one tensor {wanted}",
                fix=f"return logits {wanted}",
            )
        return logits

    @torch.inference_mode()
    def answer(self, text: str, image: bytes, entry_points: Sequence[Sequence[Modality]]) -> Answer:
        """Answer one item, for each set of modalities in `entry_points`.

        Args:
            text: The text.
            image: An encoded picture.
            entry_points: The sets of modalities to answer with.

        Raises:
            ValueError: when the text or the picture cannot be read.
        """
        spec = self.text.servable_spec()
        words = None
        if self.task == "tagging":
            words = text_tokenizer.encode_words(self.tokenizer, text.encode(), spec)
            row = words.ids
        else:
            row = text_tokenizer.encode(self.tokenizer, text.encode(), spec)
        pixels = image_decoder.decode(image, self.image.servable_spec())
        ids = torch.tensor([row])
        mask = torch.ones_like(ids)
        starts = None if words is None else torch.tensor([words.starts])
        text_features = self.encode_text(ids, mask, starts)
        head_mask = mask if starts is None else torch.ones_like(starts)
        image_features = self.encode_image(torch.from_numpy(pixels.copy())[None])
        logits = {
            modalities_key(given): self.fuse(
                text_features if "text" in given else None,
                image_features if "image" in given else None,
                head_mask if "text" in given else None,
            )
            for given in entry_points
        }
        return Answer(
            input_ids=ids[0].numpy(),
            pixels=pixels,
            text_features=text_features[0].float().numpy(),
            image_features=image_features[0].float().numpy(),
            values={
                key: to_answers(self.task, values)[0].float().numpy()
                for key, values in logits.items()
            },
            word_starts=None if words is None else np.array(words.starts, np.int64),
            offsets=None if words is None else np.array(words.offsets, np.int64),
        )

    def eval(self) -> FusionModel:
        """Put all modules into evaluation mode."""
        for module in (self.text_encoder, self.image_encoder, self.fusion_head):
            module.eval()
        return self


def golden_tensors(
    answers: Sequence[Answer], text_kind: FeatureKind, image_kind: FeatureKind
) -> dict[str, npt.NDArray[Any]]:
    """Name what the golden samples' stages said: `<index>.<tensor>` -> values."""
    tensors: dict[str, npt.NDArray[Any]] = {}
    for index, answer in enumerate(answers):
        tensors[f"{index}.{INPUT_IDS}"] = answer.input_ids
        tensors[f"{index}.{PIXELS}"] = answer.pixels
        if answer.word_starts is not None and answer.offsets is not None:
            tensors[f"{index}.{WORD_STARTS}"] = answer.word_starts
            tensors[f"{index}.{OFFSETS}"] = answer.offsets
        tensors[f"{index}.{FEATURE_TENSORS['text', text_kind]}"] = answer.text_features
        tensors[f"{index}.{FEATURE_TENSORS['image', image_kind]}"] = answer.image_features
    return tensors


def golden_sample(sample: Sample, answer: Answer, labels: Sequence[str], task: Task) -> Sample:
    """Write PyTorch's answer into a sample."""
    main = next(iter(answer.values.values()))
    return replace(
        sample,
        answer=labels[int(main.argmax())] if task == "classification" else None,
        expected={
            key: tuple(float(value) for value in values.reshape(-1))
            for key, values in answer.values.items()
        },
    )
