"""Bundles: what they keep, and what they say when something is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
import torch
from torch import nn

from tests.support import models
from tests.support.pictures import png
from tritium_builders import Bundle, Sample, TextPreprocessing
from tritium_builders.bundle import MANIFEST, file_entry
from tritium_builders.errors import BundleError, ExportError


def edit(folder: Path, old: str, new: str) -> None:
    """Change bundle.toml as a person with an editor would."""
    text = (folder / MANIFEST).read_text()
    assert old in text
    (folder / MANIFEST).write_text(text.replace(old, new, 1))


def test_a_custom_bundle_keeps_graphs_and_nothing_executable(custom: Bundle) -> None:
    names = {path.suffix for path in custom.folder.rglob("*") if path.is_file()}
    assert names <= {".toml", ".json", ".jsonl", ".onnx", ".safetensors", ""}
    assert custom.manifest.text_encoder.architecture == "onnx"
    assert custom.manifest.text_encoder.shape == [-1, 48]
    assert custom.manifest.image_encoder.shape == [128]
    assert custom.manifest.entry_points == [["text", "image"], ["text"], ["image"]]
    assert custom.manifest.fusion_head.takes_mask


def test_a_known_bundle_keeps_weights_and_loads_without_the_modules(known: Bundle) -> None:
    assert (known.folder / "text_encoder" / "model.safetensors").exists()
    again = Bundle.load(known.folder)
    assert again.hash == known.hash
    assert [sample.answer for sample in again.golden] == [s.answer for s in known.golden]


def test_the_same_modules_give_the_same_hash(custom: Bundle, tmp_path: Path) -> None:
    assert models.custom_bundle(tmp_path / "again").hash == custom.hash


def test_golden_samples_carry_pytorchs_answers(custom: Bundle) -> None:
    for sample in custom.golden:
        assert set(sample.expected) == {"text,image", "text", "image"}
        probabilities = sample.expected["text,image"]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert sample.answer == models.LABELS[probabilities.index(max(probabilities))]


def test_modules_are_left_in_the_mode_they_were_in(tmp_path: Path) -> None:
    modules = models.custom_modules()
    modules["image_encoder"].train()
    Bundle.from_modules(**modules, examples=models.examples(2), path=tmp_path / "b")
    assert modules["image_encoder"].training
    assert not modules["text_encoder"].training


def test_a_head_that_needs_both_modalities_gets_one_entry_point(tmp_path: Path) -> None:
    class Needy(models.AttentionHead):
        def forward(self, text: Any, image: Any, text_mask: Any = None) -> torch.Tensor:
            return super().forward(text * 1, image * 1, text_mask)

    bundle = models.custom_bundle(tmp_path / "b", fusion_head=Needy().eval())
    assert bundle.manifest.entry_points == [["text", "image"]]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("missing", Path.unlink, r"tokenizer\.json: is missing; copy the file again"),
        (
            "truncated",
            lambda path: path.write_bytes(path.read_bytes()[:-10]),
            r"tokenizer\.json: is truncated: \d+ bytes, bundle\.toml says \d+",
        ),
        (
            "changed",
            lambda path: path.write_bytes(path.read_bytes()[:-1] + b" "),
            r"tokenizer\.json: has SHA-256 .* bundle\.toml says",
        ),
    ],
)
def test_a_damaged_file_is_named(
    custom_copy: Path, name: str, damage: Callable[[Path], Any], message: str
) -> None:
    damage(custom_copy / "tokenizer.json")
    with pytest.raises(BundleError, match=message):
        Bundle.load(custom_copy)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema_version = 1", "schema_version = 9", r"bundle\.toml: schema_version: 9 is not kno"),
        ('app = "custom"', 'app = "Bad Name"', r"bundle\.toml: app: .*not an app name"),
        ('resample = "bicubic"', 'resample = "cubic"', r"bundle\.toml: image\.resample: .*bicubic"),
        ("max_length = 48", "max_length = 0", r"bundle\.toml: text\.max_length: "),
        ('"ant"', '"bee"', r"bundle\.toml: labels: .*repeated"),
        ("app = ", "app == ", r"bundle\.toml: is not valid TOML"),
        ('architecture = "onnx"', 'architecture = "later"', r"text_encoder\.architecture: 'later'"),
    ],
)
def test_a_wrong_field_is_named(custom_copy: Path, old: str, new: str, message: str) -> None:
    edit(custom_copy, old, new)
    with pytest.raises(BundleError, match=message):
        Bundle.load(custom_copy)


def rewrite_weights(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change tensors and the manifest's hash with them, as a careless script would."""
    path = folder / "fusion_head" / "model.safetensors"
    old = file_entry(path)
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    safetensors.numpy.save_file(tensors, path)
    new = file_entry(path)
    edit(folder, f'sha256 = "{old.sha256}"\nbytes = {old.bytes}',
         f'sha256 = "{new.sha256}"\nbytes = {new.bytes}')  # fmt: skip


def test_tensors_of_another_shape_are_named(known_copy: Path) -> None:
    def shrink(tensors: dict[str, Any]) -> None:
        tensors["absent_text"] = tensors["absent_text"][:-1].copy()

    rewrite_weights(known_copy, shrink)
    with pytest.raises(
        BundleError,
        match=r"fusion_head/model\.safetensors: absent_text: has shape \[15\], config\.json wants "
        r"\[16\]; use the config\.json",
    ):
        Bundle.load(known_copy)


def test_a_missing_tensor_is_named(known_copy: Path) -> None:
    rewrite_weights(known_copy, lambda tensors: tensors.pop("absent_text"))
    with pytest.raises(BundleError, match=r"model\.safetensors: absent_text: is missing"):
        Bundle.load(known_copy)


def test_a_path_outside_the_bundle_is_refused(custom_copy: Path) -> None:
    (custom_copy.parent / "secret").write_text("x")
    edit(custom_copy, '[files."tokenizer.json"]', '[files."../secret"]')
    with pytest.raises(BundleError, match="lies outside the bundle"):
        Bundle.load(custom_copy)


def test_a_folder_without_a_bundle_says_so(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"bundle\.toml: is missing in .*give the folder"):
        Bundle.load(tmp_path)
    with pytest.raises(BundleError, match="is not a folder"):
        Bundle.load(tmp_path / "nothing")


class IgnoresMask(models.TinyBert):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return super().forward(input_ids, torch.ones_like(attention_mask))


class Branches(models.TinyCnn):
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        if pixel_values.sum() > 0:
            return super().forward(pixel_values)
        return super().forward(-pixel_values)


class GivesTuple(nn.Module):
    def forward(self, pixel_values: torch.Tensor) -> Any:
        return (pixel_values.mean((2, 3)),)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"labels": ["a", "b"]}, BundleError, "gives 7 logits for 2 labels"),
        ({"examples": []}, BundleError, "there are none; give at least one"),
        ({"tokenizer": b"{}"}, BundleError, "give a fast Hugging Face tokenizer"),
        ({"text_encoder": IgnoresMask()}, BundleError, "padding changes its features"),
        ({"image_encoder": GivesTuple()}, BundleError, "returns tuple; return one tensor"),
        ({"image_encoder": Branches()}, ExportError, "ImageEncoder: torch.onnx.export failed"),
        (
            {"text_preprocessing": TextPreprocessing(max_length=600)},
            BundleError,
            "cannot take 600 tokens",
        ),
        (
            {"reference": lambda text, image: torch.full((7,), 1 / 7)},
            BundleError,
            r"reference\(\.\.\.\) gives shape \[7\], the modules \[7\]; largest difference",
        ),
        (
            {"examples": [("text", b"not a picture")]},
            BundleError,
            "sample examples-0: the modules raised ValueError: not a picture",
        ),
        ({"examples": [("text", "missing.png")]}, BundleError, "the image cannot be read"),
        ({"validation": [("text", png(), "zebra")]}, BundleError, "'zebra' is not one of"),
        ({"calibration": [models.examples()[0]]}, BundleError, "is also in the golden set"),
    ],
)
def test_modules_that_cannot_be_served_are_refused_and_nothing_is_left(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        models.custom_bundle(tmp_path / "bundles" / "b", **changes)
    left = tmp_path / "bundles"
    assert not left.exists() or not any(left.iterdir())


def test_an_existing_bundle_is_not_overwritten_by_accident(custom_copy: Path) -> None:
    before = (custom_copy / MANIFEST).read_bytes()
    with pytest.raises(BundleError, match="is already there; choose another path"):
        models.custom_bundle(custom_copy)
    assert (custom_copy / MANIFEST).read_bytes() == before
    models.custom_bundle(custom_copy, fusion="again", overwrite=True)
    assert re.search('strategy = "again"', (custom_copy / MANIFEST).read_text())
    assert [path.name for path in custom_copy.parent.iterdir()] == ["custom"]


def test_the_same_text_with_another_picture_is_another_sample() -> None:
    first, second = Sample("a", "text", png(seed=1)), Sample("a", "text", png(seed=2))
    assert first.content_hash != second.content_hash
    assert first.content_hash == Sample("b", "text", png(seed=1)).content_hash
