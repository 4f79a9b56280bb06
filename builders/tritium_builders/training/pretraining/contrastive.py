"""Image-text contrastive pretraining: a text is told from others by its own picture, and back.

Source: Radford et al. 2021 (CLIP), section 2.3 and figure 3; van den Oord et al. 2018 (InfoNCE).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from tritium_builders.data import Dataset
from tritium_builders.models import LoadedImageEncoder, LoadedTextEncoder
from tritium_builders.models.sources import pretrained_name
from tritium_builders.models.text_encoders import load_tokenizer
from tritium_builders.reference import FusionModel
from tritium_builders.servables import text_tokenizer
from tritium_builders.training.features import Features, pixels_of, token_ids
from tritium_builders.training.pretraining.folders import write_image_encoder, write_text_encoder
from tritium_builders.training.pretraining.objectives import PretrainingTask, Watched
from tritium_builders.training.recipe import ContrastiveTable
from tritium_client.contract import ATTENTION_MASK, INPUT_IDS

LARGEST_SCALE = 100.0
"""CLIP's bound on 1 / temperature, without which training becomes unstable."""


class Contrastive(PretrainingTask):
    """Both encoders, a projection for each, and a learned temperature.

    Image encoders keep the running statistics of their norms: batches are small, and features of
    one picture must not depend on its neighbours.

    Args:
        text: The text encoder, pooled.
        image: The image encoder, pooled.
        dataset: The items.
        frozen: Both encoders' features, taken for those that are not adapted.
        table: The recipe's table.
        source: The text encoder's source, where its tokenizer lies.
        batch_size: How many items are watched at once.
    """

    def __init__(
        self,
        text: LoadedTextEncoder,
        image: LoadedImageEncoder,
        dataset: Dataset,
        frozen: Features,
        table: ContrastiveTable,
        *,
        source: str,
        batch_size: int,
    ) -> None:
        self._text, self._image, self._dataset, self._source = text, image, dataset, source
        tokenizer = Tokenizer.from_buffer(text.tokenizer_json)
        tokenizer.enable_truncation(max_length=text.preprocessing.max_length)
        self._model = FusionModel(
            text_encoder=text.module,
            image_encoder=image.module,
            fusion_head=nn.Identity(),  # only the encoders' side of the model is used here
            tokenizer=tokenizer,
            text=text.preprocessing,
            image=image.preprocessing,
        )
        self._frozen = {"text": frozen.text, "image": frozen.image}
        self._batch_size = batch_size
        modules = {"text": text.module, "image": image.module}
        self.encoders = nn.ModuleDict(
            {name: modules[name].requires_grad_(True) for name in table.train}
        )
        self.heads = nn.ModuleDict(
            {
                "text": nn.Linear(frozen.text.shape[-1], table.width, bias=False),
                "image": nn.Linear(frozen.image.shape[-1], table.width, bias=False),
                "scale": Scale(table.temperature),
            }
        )
        self._rows = [token_ids(item, tokenizer, text.preprocessing) for item in dataset.items]

    def train(self, mode: bool) -> None:
        """Turn the text encoder's dropout on or off."""
        super().train(mode)
        if "image" in self.encoders:
            self.encoders["image"].eval()

    def loss(self, items: Tensor) -> Tensor:
        """Cross-entropy of finding the picture by the text, and the text by the picture."""
        return symmetric_loss(self._similarities(items))

    @torch.inference_mode()
    def watch(self, items: Tensor) -> Watched:
        """The same, and how often the best match among all of `items` is the right one."""
        batches = torch.split(items, self._batch_size)
        text, image = (
            torch.cat([self._embed(name, batch) for batch in batches]) for name in ("text", "image")
        )
        scale, losses, start = self.heads["scale"](), [], 0
        for batch in batches:
            own = slice(start, start + len(batch))
            losses.append(len(batch) * symmetric_loss(scale * text[own] @ image[own].T))
            start += len(batch)
        similarities, right = text @ image.T, torch.arange(len(items), device=text.device)
        return Watched(
            float(torch.stack(losses).sum() / len(items)),
            {
                "pictures found by their text": _share(similarities.argmax(1) == right),
                "texts found by their picture": _share(similarities.argmax(0) == right),
            },
        )

    def write(self, folder: Path) -> list[Path]:
        """Write each encoder that was adapted into a folder of its own."""
        written = []
        if "text" in self.encoders:
            tokenizer = load_tokenizer(self._source, pretrained_name(self._source))
            target = folder / "text_encoder"
            write_text_encoder(self._text.module.model, tokenizer, self._text.preprocessing, target)
            written.append(target)
        if "image" in self.encoders:
            target = folder / "image_encoder"
            write_image_encoder(self._image, target)
            written.append(target)
        return written

    def _similarities(self, items: Tensor) -> Tensor:
        """Logits FP32 [B, B]: each text with each picture, its own on the diagonal."""
        text, image = self._embed("text", items), self._embed("image", items)
        similarities: Tensor = self.heads["scale"]() * text @ image.T
        return similarities

    def _embed(self, modality: str, items: Tensor) -> Tensor:
        """Items in the space where both meet, FP32 [B, width], of length 1."""
        head = self.heads[modality]
        device = next(head.parameters()).device
        if modality not in self.encoders:
            features = self._frozen[modality][items].to(device)
        elif modality == "text":
            features = self._encode_texts(items, device)
        else:
            pixels = [
                pixels_of(self._dataset.items[index], self._image.preprocessing) for index in items
            ]
            features = self._model.encode_image(torch.from_numpy(np.stack(pixels)).to(device))
        return functional.normalize(head(features), dim=-1)

    def _encode_texts(self, items: Tensor, device: torch.device) -> Tensor:
        preprocessing = self._text.preprocessing
        padded = text_tokenizer.pad(
            [self._rows[index] for index in items.tolist()],
            preprocessing.padding_side,
            preprocessing.pad_id,
        )
        ids, mask = (
            torch.from_numpy(padded[name]).to(device) for name in (INPUT_IDS, ATTENTION_MASK)
        )
        return self._model.encode_text(ids, mask)


class Scale(nn.Module):
    """A learned factor, 1 / temperature, that stays positive and bounded.

    Args:
        temperature: Where it starts.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.logarithm = nn.Parameter(torch.tensor(math.log(1 / temperature)))

    def forward(self) -> Tensor:
        """The factor, FP32 []."""
        return self.logarithm.exp().clamp(max=LARGEST_SCALE)


def symmetric_loss(similarities: Tensor) -> Tensor:
    """Mean cross-entropy of rows and of columns, FP32 []; right answers are on the diagonal.

    Args:
        similarities: Logits FP32 [B, B].
    """
    right = torch.arange(len(similarities), device=similarities.device)
    by_text = functional.cross_entropy(similarities, right)
    by_image = functional.cross_entropy(similarities.T, right)
    return (by_text + by_image) / 2


def _share(hits: Tensor) -> float:
    return float(hits.float().mean())
