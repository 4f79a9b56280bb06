"""Recipes for tasks other than classification: a manifest in, a bundle with honest figures out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from seqeval.metrics import f1_score

from tests.support.manifests import tiny_encoders, write_jsonl
from tests.support.pictures import encode
from tritium_builders import Bundle
from tritium_builders.data.targets import tags_of
from tritium_builders.errors import RecipeError
from tritium_builders.graphs import load_model
from tritium_builders.reports.page import read_content, render_page
from tritium_builders.training import train
from tritium_builders.training.embedding import recall
from tritium_builders.training.imbalance import Balance
from tritium_builders.training.multilabel import MultiLabel, _best_threshold
from tritium_builders.training.recipe import ImbalanceTable
from tritium_builders.training.run import check_data, cross_validate
from tritium_builders.training.task_report import TaskReport
from tritium_builders.verdicts import meaning_of

ANIMALS = ("cat", "dog", "elk", "fox")
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 200, 30)}
RECIPE = """\
app = "tasks"
task = "{task}"
seeds = [0]

[data]
source = "manifest"
path = "rows.jsonl"
{data}
[text_encoder]
source = "{text}"
pooling = "{pooling}"

[image_encoder]
source = "{image}"

[fusion]
width = 32
hidden = 32
dropout = 0.0
modality_dropout = 0.2

[optimiser]
learning_rate = 3e-3
batch_size = 16
max_epochs = {epochs}
patience = 40

[split]
folds = 4
validation_folds = 4

[samples]
golden = 3
calibration = 3
"""


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tiny_encoders(tmp_path_factory.mktemp("encoders"))


def rows(folder: Path, count: int = 96) -> list[dict[str, Any]]:
    """A text names an animal and a number, its picture has a colour; both are to be read."""
    (folder / "pictures").mkdir()
    found = []
    for index in range(count):
        animal, (colour, rgb) = ANIMALS[index % 4], list(COLOURS.items())[index % 3]
        noise = np.random.default_rng(index).integers(-25, 25, (24, 24, 3))
        pixels = np.clip(np.array(rgb) + noise, 0, 255).astype(np.uint8)
        name = f"pictures/{index}.png"
        (folder / name).write_bytes(encode(Image.fromarray(pixels), "PNG"))
        text = f"{'a very small' if index % 2 else 'the'} {animal} number {index}"
        begin = text.index(animal)
        place = {"start": begin, "end": begin + 3, "label": f"{colour.upper()}"}
        found.append(
            {
                "text": text,
                "image": name,
                "label": [animal, *([colour] if colour != "green" else [])],
                "price": 10 * ANIMALS.index(animal) + 100 * (colour == "red"),
                "entities": [place],
            }
        )
    return found


def recipe(folder: Path, encoders: tuple[Path, Path], task: str, **changes: Any) -> Path:
    text, image = encoders
    values = {
        "data": 'values = ["price"]\n' if task == "regression" else "",
        "pooling": "none" if task == "tagging" else "mean",
        "epochs": 40,
        **changes,
    }
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(task=task, text=text, image=image, **values), "utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    write_jsonl(folder / "rows.jsonl", rows(folder))
    return folder


def trained(
    folder: Path, encoders: tuple[Path, Path], task: str, out: Path
) -> tuple[Bundle, TaskReport]:
    bundle = train(recipe(folder, encoders, task), out=out)
    return bundle, TaskReport.model_validate_json((bundle.folder / "report.json").read_bytes())


def right_share(bundle: Bundle) -> float:
    """How many held-out samples the bundle's own PyTorch model answers rightly."""
    model, meaning = load_model(bundle), meaning_of(bundle.manifest)
    given = bundle.manifest.entry_points[0]
    right = []
    for sample in bundle.validation:
        answer = model.answer(sample.text, sample.image, [given])
        offsets = [] if answer.offsets is None else answer.offsets.tolist()
        right.append(meaning.says(answer.values["text,image"], offsets).is_right(sample))
    return float(np.mean(right))


def page_of(bundle: Bundle) -> str:
    """The report's page, which the bundle's other files make again."""
    page = (bundle.folder / "report.html").read_bytes()
    assert render_page(read_content(bundle.folder)) == page
    return page.decode()


def test_many_labels_are_learnt_with_thresholds_of_their_own(
    folder: Path, encoders: tuple[Path, Path], tmp_path: Path
) -> None:
    bundle, report = trained(folder, encoders, "multilabel", tmp_path / "bundle")
    assert bundle.manifest.labels == ["blue", "cat", "dog", "elk", "fox", "red"]
    assert report.measure == "micro F1"
    assert report.fusion.mean > 0.9
    assert report.text_model is not None
    assert report.image_model is not None
    assert report.fusion.mean > max(report.text_model.mean, report.image_model.mean) + 0.05
    assert list(report.thresholds.values()) == bundle.manifest.thresholds
    assert right_share(bundle) == pytest.approx(report.figures["exact sets"].mean, abs=1e-6)
    assert [row.threshold for row in report.by_label.values()] == bundle.manifest.thresholds
    assert sum(row.items for row in report.by_label.values()) == sum(
        len(sample.target or ()) for sample in bundle.validation
    )
    assert "Label by label" in page_of(bundle)
    card = check_data(folder / "recipe.toml")
    assert card.labels["cat"].share == 0.25


def test_numbers_are_learnt_in_their_own_unit(
    folder: Path, encoders: tuple[Path, Path], tmp_path: Path
) -> None:
    bundle, report = trained(folder, encoders, "regression", tmp_path / "bundle")
    assert bundle.manifest.labels == ["price"]
    assert bundle.manifest.units == pytest.approx([48], rel=0.1)
    assert report.fusion.mean > 0.9
    assert report.text_model is not None
    assert report.text_model.mean < 0.5, "the price hangs on the colour more than on the animal"
    assert report.figures["mean absolute error of price"].mean < 20
    assert right_share(bundle) > 0.9
    assert bundle.validation[0].target is not None
    fit = report.by_score["price"]
    assert fit.r2 == pytest.approx(report.fusion.by_seed[report.bundle_seed], abs=1e-4)
    held_out = [float(str(sample.target[0])) for sample in bundle.validation if sample.target]
    assert sorted(right for right, _ in fit.pairs) == pytest.approx(sorted(held_out), abs=1e-4)
    assert "Predicted and right" in page_of(bundle)


def test_words_are_tagged_with_the_picture_s_help(
    folder: Path, encoders: tuple[Path, Path], tmp_path: Path
) -> None:
    """Where the entity is, only the text says; which one it is, only the picture."""
    bundle, report = trained(folder, encoders, "tagging", tmp_path / "bundle")
    assert bundle.manifest.entry_points == [["text", "image"], ["text"]]
    assert bundle.manifest.labels[0] == "O"
    assert report.measure == "entity F1"
    assert report.fusion.mean > 0.8
    assert report.text_model is not None
    assert report.image_model is None
    assert report.fusion.mean > report.text_model.mean + 0.3
    assert "How it learned" in page_of(bundle)
    assert right_share(bundle) > 0.7


def test_texts_find_their_pictures(
    folder: Path, encoders: tuple[Path, Path], tmp_path: Path
) -> None:
    """All pictures of a colour look alike: no text can tell which of them is its own."""
    bundle, report = trained(folder, encoders, "embedding", tmp_path / "bundle")
    assert bundle.manifest.entry_points == [["text"], ["image"]]
    assert bundle.manifest.embedding_size == 32
    assert report.measure == "recall@1"
    assert report.text_model is None
    assert set(report.figures) >= {"text to picture, recall@5", "picture to text, recall@10"}
    assert report.figures["text to picture, recall@10"].mean >= report.fusion.mean


def test_a_recipe_and_its_task_have_to_fit(
    folder: Path, encoders: tuple[Path, Path], tmp_path: Path
) -> None:
    for task, changes, problem in (
        ("regression", {"data": ""}, "data.values is for task"),
        ("multilabel", {"data": 'values = ["price"]\n'}, "data.values is for task"),
        ("tagging", {"pooling": "mean"}, 'needs text_encoder.pooling = "none"'),
        ("tagging", {"data": 'labels = ["a", "b"]\n'}, "data.labels is not for task"),
        ("classification", {"data": 'labels = ["a"]\n'}, "a classifier needs two"),
        ("poetry", {}, "task"),
    ):
        path = recipe(folder, encoders, task, **changes)
        with pytest.raises(RecipeError, match=problem):
            train(path, out=tmp_path / "bundle")
    path = recipe(folder, encoders, "multilabel")
    with pytest.raises(RecipeError, match="--cross-validate is for classification"):
        cross_validate(path)


@pytest.mark.parametrize(
    ("task", "cell", "problem"),
    [
        ("multilabel", {"label": ["cat", "cat"]}, "'cat' is empty, is there twice"),
        ("multilabel", {"label": 7}, "column label: is a number"),
        ("regression", {"price": "cheap"}, "column price: is no number"),
        ("regression", {"price": float("nan")}, "column price: is no number"),
        ("regression", {"price": True}, "column price: is no number"),
        ("tagging", {"entities": [[0, 99, "X"]]}, "lies outside the text"),
        ("tagging", {"entities": [[0, 2, "X"], [1, 3, "Y"]]}, "overlap"),
        ("tagging", {"entities": [[0, 2, "B-X"]]}, "write it without B- or I-"),
        ("tagging", {"entities": "["}, "is not valid JSON"),
        ("tagging", {"entities": [[0, 2]]}, "is no entity"),
    ],
)
def test_what_is_wrong_with_a_target_is_told_with_its_line(
    task: str,
    cell: dict[str, Any],
    problem: str,
    encoders: tuple[Path, Path],
    folder: Path,
    tmp_path: Path,
) -> None:
    lines = (folder / "rows.jsonl").read_text("utf-8").splitlines()
    content = json.loads(lines[4])
    lines[4] = json.dumps({**content, **cell})
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), "utf-8")
    (tmp_path / "pictures").symlink_to(folder / "pictures")
    data = f'images = "{folder}"\n'
    if task == "regression":
        data += 'values = ["price"]\n'
    with pytest.raises(RecipeError, match=problem) as caught:
        check_data(recipe(tmp_path, encoders, task, data=data))
    assert "rows.jsonl, line 5" in str(caught.value)


def test_words_take_the_tags_of_their_entities() -> None:
    offsets = [(0, 3), (4, 9), (10, 11), (12, 15)]
    spans = [(0, 9, "PER"), (12, 15, "LOC")]
    assert tags_of(offsets, spans) == ["B-PER", "I-PER", "O", "B-LOC"]
    half = [(2, 6, "PER")]
    assert tags_of(offsets, half) == ["B-PER", "I-PER", "O", "O"]
    assert f1_score([tags_of(offsets, spans)], [tags_of(offsets, spans)]) == 1


def test_a_threshold_parts_where_f1_peaks() -> None:
    values = np.array([0.9, 0.6, 0.5, 0.4, 0.1], np.float32)
    assert _best_threshold(values, np.array([1, 1, 0, 0, 0], bool)) == pytest.approx(0.55)
    assert _best_threshold(values, np.array([0, 0, 0, 0, 0], bool)) == 0.5
    assert _best_threshold(values, np.array([1, 1, 1, 1, 1], bool)) == pytest.approx(0.05)
    same = np.full(4, 0.3, np.float32)
    assert _best_threshold(same, np.array([1, 0, 0, 0], bool)) == pytest.approx(0.15)


def test_recall_counts_what_is_among_the_closest() -> None:
    asked = np.eye(4, dtype=np.float32)
    assert recall(asked, asked, 1) == 1
    assert recall(asked, asked[[1, 0, 2, 3]], 1) == 0.5
    assert recall(asked, np.ones((4, 4), np.float32), 1) == 0, "all alike is found by nobody"
    assert recall(asked, np.ones((4, 4), np.float32), 4) == 1


def test_label_smoothing_moves_targets_to_the_middle(folder: Path) -> None:
    loss = MultiLabel.__new__(MultiLabel)
    loss._smoothing = 0.2
    loss._balance = Balance(ImbalanceTable(), torch.ones(2), 2)
    logits = torch.tensor([[0.0, 2.0]])
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, torch.tensor([[0.1, 0.9]])
    )
    assert float(loss.loss(logits, torch.tensor([[0.0, 1.0]]))) == pytest.approx(float(wanted))
