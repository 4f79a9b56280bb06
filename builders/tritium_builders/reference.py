"""What PyTorch answers: the truth that every gate compares with.

A `FusionModel` is a text encoder, an image encoder and a fusion head as ordinary torch modules,
with their preprocessing. It answers one item at a time and unpadded, as a caller's own script
would, and keeps what every stage said on the way.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from tritium_client.contract import INPUT_IDS, PIXELS, Modality

_TEXT_MASK_NAMES = ("text_mask", "attention_mask")


@dataclass(frozen=True)
class Answer:
    """What every stage said about one item."""

    input_ids: npt.NDArray[np.int64]
    """INT64 [tokens]."""
    pixels: npt.NDArray[np.uint8]
    """UINT8 [height, width, 3]."""
    text_features: npt.NDArray[np.float32]
    """FP32 [D] or [tokens, D]."""
    image_features: npt.NDArray[np.float32]
    """FP32 [D] or [patches, D]."""
    probabilities: Mapping[str, npt.NDArray[np.float32]]
    """FP32 [labels] by `modalities_key`."""


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
    """A text + image classifier in PyTorch.

    `text_encoder(input_ids, attention_mask)`, both int64 [B, L], gives float [B, D] or [B, L, D];
    `image_encoder(pixel_values)`, normalised float32 [B, 3, H, W], gives [B, D] or [B, P, D];
    `fusion_head(text, image)`, either None when absent, gives logits [B, labels]. A head over a
    text sequence may take a third argument named `text_mask` or `attention_mask`, int64 [B, L].
    """

    text_encoder: nn.Module
    image_encoder: nn.Module
    fusion_head: nn.Module
    tokenizer: Tokenizer
    text: TextPreprocessing
    image: ImagePreprocessing

    @cached_property
    def head_takes_mask(self) -> bool:
        """Whether the fusion head wants the text's attention mask."""
        parameters = inspect.signature(self.fusion_head.forward).parameters
        return any(name in parameters for name in _TEXT_MASK_NAMES)

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Run the text encoder on int64 [B, L] ids and mask."""
        return features_of(self.text_encoder(ids, mask), "text_encoder")

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Normalise uint8 [B, H, W, 3] pixels and run the image encoder."""
        return features_of(self.image_encoder(normalise(pixels, self.image)), "image_encoder")

    def fuse(self, text: Tensor | None, image: Tensor | None, mask: Tensor | None) -> Tensor:
        """Run the fusion head; gives logits [B, labels]."""
        extra = (mask,) if self.head_takes_mask else ()
        logits = self.fusion_head(text, image, *extra)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise BundleError(
                file="fusion_head",
                field="forward",
                problem="does not return one tensor [batch, labels]",
                fix="return logits [batch, labels]",
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
        row = text_tokenizer.encode(self.tokenizer, text.encode(), self.text.servable_spec())
        pixels = image_decoder.decode(image, self.image.servable_spec())
        ids = torch.tensor([row])
        mask = torch.ones_like(ids)
        text_features = self.encode_text(ids, mask)
        image_features = self.encode_image(torch.from_numpy(pixels.copy())[None])
        probabilities = {
            modalities_key(given): self.fuse(
                text_features if "text" in given else None,
                image_features if "image" in given else None,
                mask if "text" in given else None,
            ).softmax(-1)
            for given in entry_points
        }
        return Answer(
            input_ids=ids[0].numpy(),
            pixels=pixels,
            text_features=text_features[0].float().numpy(),
            image_features=image_features[0].float().numpy(),
            probabilities={key: values[0].float().numpy() for key, values in probabilities.items()},
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
        tensors[f"{index}.{FEATURE_TENSORS['text', text_kind]}"] = answer.text_features
        tensors[f"{index}.{FEATURE_TENSORS['image', image_kind]}"] = answer.image_features
    return tensors


def golden_sample(sample: Sample, answer: Answer, labels: Sequence[str]) -> Sample:
    """Write PyTorch's answer into a sample."""
    main = next(iter(answer.probabilities.values()))
    return Sample(
        id=sample.id,
        text=sample.text,
        image=sample.image,
        label=sample.label,
        answer=labels[int(main.argmax())],
        expected={
            key: tuple(float(value) for value in values)
            for key, values in answer.probabilities.items()
        },
    )
