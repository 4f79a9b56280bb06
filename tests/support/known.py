"""A bundle of architectures that Tritium knows, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel, ResNetConfig, ResNetModel, ViTConfig, ViTModel

from tests.support.models import IMAGES, LABELS, examples, tokenizer
from tritium_builders import Bundle, TextPreprocessing
from tritium_builders.models import (
    FUSION_HEADS,
    ConcatFusion,
    HuggingFaceImageEncoder,
    HuggingFaceTextEncoder,
    LateFusion,
    SequenceCrossAttentionFusion,
)


def fusion_bundle(path: Path, strategy: str, app: str | None = None) -> Bundle:
    """Write a bundle with a small head of one fusion strategy."""
    kind = FUSION_HEADS[strategy]
    torch.manual_seed(7)
    small = {"width": 16, "hidden": 16, "heads": 2, "layers": 2, "rank": 2}
    sizes = {name: small[name] for name in kind.settings}
    head = kind(
        text_features=32, image_features=32 if kind.sequences else 16, labels=len(LABELS),
        modality_dropout=0.0, **sizes,
    )  # fmt: skip
    if isinstance(head, LateFusion):
        head.text_weight.fill_(0.37)
    changes: dict[str, Any] = {"fusion_head": head.eval(), "fusion": strategy}
    if kind.sequences:
        return sequence_bundle(path, app or strategy, **changes)
    return known_bundle(path, app or strategy, **changes)


def sequence_bundle(path: Path, app: str = "sequence", **changes: Any) -> Bundle:
    """Write a bundle whose head attends over tokens and patches."""
    torch.manual_seed(5)
    bert = BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    vit = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        image_size=64, patch_size=16,
    )  # fmt: skip
    head = SequenceCrossAttentionFusion(
        text_features=32, image_features=32, labels=len(LABELS), width=16, hidden=16
    )
    arguments = {
        "text_encoder": HuggingFaceTextEncoder(BertModel(bert), "none").eval(),
        "image_encoder": HuggingFaceImageEncoder(ViTModel(vit), "none").eval(),
        "fusion_head": head.eval(),
        "fusion": "sequence_cross_attention",
        **changes,
    }
    return known_bundle(path, app, **arguments)


def known_bundle(
    path: Path, app: str = "known", seed: int = 3, head_seed: int | None = None, **changes: Any
) -> Bundle:
    """Write a bundle whose components are kept as architecture and safetensors."""
    torch.manual_seed(seed)
    bert = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    text_encoder, image_encoder = BertModel(bert), ResNetModel(resnet)
    torch.manual_seed(seed + 1 if head_seed is None else head_seed)
    head = ConcatFusion(
        text_features=32, image_features=16, labels=len(LABELS), width=16, hidden=16
    )
    with torch.no_grad():  # answers that differ from item to item
        for parameter in head.classifier.parameters():
            parameter.mul_(4)
    arguments = {
        "text_encoder": HuggingFaceTextEncoder(text_encoder, "mean").eval(),
        "tokenizer": tokenizer(),
        "text_preprocessing": TextPreprocessing(max_length=48),
        "image_encoder": HuggingFaceImageEncoder(image_encoder, "pooled").eval(),
        "image_preprocessing": IMAGES,
        "fusion_head": head.eval(),
        "labels": LABELS,
        "examples": examples(),
        "fusion": "concat",
        **changes,
    }
    return Bundle.from_modules(app=app, path=path, **arguments)
