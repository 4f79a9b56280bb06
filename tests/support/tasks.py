"""Small bundles for tasks other than classification, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel

from tests.support.known import known_bundle
from tests.support.models import examples
from tritium_builders import Bundle
from tritium_builders.models import (
    ConcatFusion,
    HuggingFaceTextEncoder,
    JointEmbedding,
    ScaledHead,
    WordAttentionFusion,
)
from tritium_client.contract import Task

MOODS = ["calm", "dark", "funny", "sad"]
SCORES = ["price", "weight"]
TAGS = ["O", "B-ANIMAL", "I-ANIMAL", "B-FRUIT", "I-FRUIT"]


def task_bundle(path: Path, task: Task, app: str | None = None, **changes: Any) -> Bundle:
    """Write a bundle for a task."""
    torch.manual_seed(changes.pop("head_seed", 11))
    made = {
        "classification": dict,
        "multilabel": _multilabel,
        "regression": _regression,
        "tagging": _tagging,
        "embedding": _embedding,
    }[task]()
    return known_bundle(path, app or task, task=task, examples=examples(8), **{**made, **changes})


def _concat(labels: int) -> ConcatFusion:
    return ConcatFusion(
        text_features=32, image_features=16, labels=labels, width=16, hidden=16
    ).eval()


def _multilabel() -> dict[str, Any]:
    return {
        "fusion_head": _concat(len(MOODS)),
        "labels": MOODS,
        "thresholds": [0.45, 0.5, 0.55, 0.6],
    }


def _regression() -> dict[str, Any]:
    head = ScaledHead(_concat(len(SCORES)), [100.0, -2.0], [50.0, 0.1])
    return {"fusion_head": head.eval(), "labels": SCORES, "units": [50.0, 0.1]}


def _tagging() -> dict[str, Any]:
    bert = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    head = WordAttentionFusion(
        text_features=32, image_features=16, labels=len(TAGS), width=16, hidden=16, heads=2
    )
    with torch.no_grad():  # tags that differ from word to word
        for parameter in head.classifier.parameters():
            parameter.mul_(6)
    return {
        "text_encoder": HuggingFaceTextEncoder(BertModel(bert), "none").eval(),
        "fusion_head": head.eval(),
        "labels": TAGS,
    }


def _embedding() -> dict[str, Any]:
    head = JointEmbedding(text_features=32, image_features=16, labels=12, hidden=16)
    return {"fusion_head": head.eval(), "labels": []}
