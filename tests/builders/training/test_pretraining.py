"""Pretraining: encoders that learn without labels, honestly, and come out whole."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import BertWordPieceTokenizer, Tokenizer
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
from typer.testing import CliRunner

from tritium_builders.data import Dataset
from tritium_builders.errors import RecipeError, TrainingError
from tritium_builders.models import LoadedImageEncoder, load_image_encoder, load_text_encoder
from tritium_builders.models.image_encoders import save_image_encoder
from tritium_builders.training.own_data import REDUCING_GAP, RecipeData, make_split
from tritium_builders.training.pretraining import run
from tritium_builders.training.pretraining.contrastive import Scale, symmetric_loss
from tritium_builders.training.pretraining.loop import pretrain_task
from tritium_builders.training.pretraining.masked_language import MaskedLanguage
from tritium_builders.training.pretraining.objectives import PretrainingTask, Watched
from tritium_builders.training.pretraining.report import PretrainingReport
from tritium_builders.training.pretraining.run import pretrain
from tritium_builders.training.recipe import PretrainingOptimiserTable, load_pretraining_recipe
from tritium_client.cli import build_app

RECIPES = Path(__file__).parents[3] / "recipes" / "pretraining"
RECIPE = """\
objective = "{objective}"
out = "encoders"
[data]
source = "openmoji"
[text_encoder]
source = "{text}"
licence = "CC0-1.0"
[image_encoder]
source = "{image}"
[optimiser]
learning_rate = 1e-3
head_learning_rate = 3e-3
max_epochs = 3
batch_size = 16
[split]
folds = 3
validation_folds = 4
{more}
"""


@pytest.fixture(scope="module")
def sources(
    some_emojis: Dataset,
    image_encoder: LoadedImageEncoder,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """A tiny BERT with a vocabulary of its own, and the tiny ResNet."""
    text, image = (tmp_path_factory.mktemp(name) for name in ("text", "image"))
    words = BertWordPieceTokenizer()
    texts = [item.text for item in some_emojis.items]
    words.train_from_iterator(texts, vocab_size=200, show_progress=False)
    backend = Tokenizer.from_str(words.to_str())
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, model_max_length=40, mask_token="[MASK]", pad_token="[PAD]",
        cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]",
    )  # fmt: skip
    tokenizer.save_pretrained(text)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=200, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=40,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(text)
    save_image_encoder(image_encoder, image)
    return {"text": str(text), "image": str(image)}


@pytest.fixture(autouse=True)
def small(
    some_emojis: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The data are a few emojis, and the cache is the test's own."""
    use(some_emojis, monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "pretraining-cache"))


def use(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "load_data", lambda *_: RecipeData(dataset, None, None))


def write(path: Path, sources: dict[str, str], objective: str, more: str = "") -> Path:
    path.write_text(RECIPE.format(objective=objective, more=more, **sources))
    return path


@pytest.fixture
def masked(sources: dict[str, str], tmp_path: Path) -> Path:
    return write(tmp_path / "masked.toml", sources, "masked_language")


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.name)
def test_every_recipe_that_we_ship_is_valid(path: Path) -> None:
    recipe = load_pretraining_recipe(path)
    assert recipe.out == f"encoders/{path.stem}"
    assert path.stem.endswith(recipe.objective)


def test_an_adapted_text_encoder_is_a_source_of_training(
    masked: Path, sources: dict[str, str], tmp_path: Path
) -> None:
    folder, report = pretrain(masked, out=tmp_path / "encoders")
    before, after = (load_text_encoder(one, "mean") for one in (sources["text"], str(folder)))
    assert not same(before.module, after.module)
    assert after.preprocessing == before.preprocessing
    assert after.tokenizer_json == before.tokenizer_json
    assert after.module.config() == before.module.config()
    assert min(report.losses) < report.loss_before
    assert report == PretrainingReport.model_validate_json(
        (folder / "pretraining.json").read_bytes()
    )
    assert (report.adapted, report.licences) == ({"text": sources["text"]}, {"text": "CC0-1.0"})
    assert str(tmp_path) not in (folder / "config.json").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoders", "masked.toml"]


def test_what_is_held_out_is_not_looked_at_and_the_seed_decides(
    masked: Path, some_emojis: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def weights() -> bytes:
        folder, _ = pretrain(masked, out=tmp_path / "encoders")
        return (folder / "model.safetensors").read_bytes()

    first = weights()
    recipe = load_pretraining_recipe(masked).training
    split = make_split(recipe, some_emojis, 0)
    held_out = set(split.held_out.tolist())
    items = tuple(
        replace(item, text="zebra crossing") if index in held_out else item
        for index, item in enumerate(some_emojis.items)
    )
    use(replace(some_emojis, items=items), monkeypatch)
    assert weights() == first
    masked.write_text(masked.read_text().replace('out = "encoders"', 'out = "x"\nseed = 1'))
    assert weights() != first


def test_a_training_that_holds_out_what_an_encoder_has_seen_is_refused(
    masked: Path, some_emojis: Dataset, tmp_path: Path
) -> None:
    folder, report = pretrain(masked, out=tmp_path / "encoders")
    recipe = load_pretraining_recipe(masked).training
    encoder = recipe.text_encoder.model_copy(update={"source": str(folder)})
    recipe = recipe.model_copy(update={"text_encoder": encoder})
    assert len(make_split(recipe, some_emojis, 0).held_out) == report.held_out
    with pytest.raises(RecipeError, match=r"was adapted to \d+ of the \d+ held-out items \(.*\)"):
        make_split(recipe, some_emojis, 1)


@pytest.mark.parametrize("train", [["text"], ["image", "text"]])
def test_contrastive_brings_texts_and_their_pictures_together(
    train: list[str], sources: dict[str, str], tmp_path: Path
) -> None:
    more = f"[contrastive]\ntrain = {json.dumps(train)}\nwidth = 16\n"
    path = write(tmp_path / "recipe.toml", sources, "contrastive", more)
    folder, report = pretrain(path, out=tmp_path / "encoders")
    assert min(report.losses) < report.loss_before
    assert set(report.figures_after) == {
        "pictures found by their text", "texts found by their picture",
    }  # fmt: skip
    assert sorted(one.name for one in folder.iterdir()) == [
        *(["image_encoder"] if "image" in train else []), "pretraining.json", "text_encoder",
    ]  # fmt: skip
    for name in train:
        assert (folder / f"{name}_encoder" / "seen.txt").is_file()
    text = load_text_encoder(str(folder / "text_encoder"), "mean")
    assert not same(text.module, load_text_encoder(sources["text"], "mean").module)
    if "image" in train:
        before, after = (
            load_image_encoder(one, "pooled")
            for one in (sources["image"], str(folder / "image_encoder"))
        )
        assert not same(before.module, after.module)
        assert after.preprocessing == before.preprocessing.model_copy(
            update={"reducing_gap": REDUCING_GAP, "resizer": "fast_image_resize"}
        )  # the recipe's
        statistics = [
            {name: one for name, one in encoder.module.named_buffers() if "running" in name}
            for encoder in (before, after)
        ]
        for name, values in statistics[0].items():
            assert torch.equal(values, statistics[1][name]), name


def test_the_loss_counts_both_ways_and_the_temperature_has_a_bound() -> None:
    similarities = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    rows = -similarities.log_softmax(1).diag().mean()
    columns = -similarities.log_softmax(0).diag().mean()
    torch.testing.assert_close(symmetric_loss(similarities), (rows + columns) / 2)
    scale = Scale(0.07)
    assert float(scale().detach()) == pytest.approx(1 / 0.07)
    with torch.no_grad():
        scale.logarithm.fill_(50.0)
    assert float(scale().detach()) == 100


class _Scripted(PretrainingTask):
    """One weight that moves at each step, and watched losses as given."""

    def __init__(self, losses: list[float]) -> None:
        self.encoders = nn.ModuleDict({"text": nn.Linear(1, 1)})
        self.heads = nn.ModuleDict({"head": nn.Linear(1, 1)})
        self.left = [9.0, *losses]
        self.seen: list[Tensor] = []

    def loss(self, items: Tensor) -> Tensor:
        self.seen.append(items)
        total: Tensor = self.encoders["text"](torch.ones(1, 1)).sum()
        more: Tensor = self.heads["head"](torch.ones(1, 1)).sum()
        return total + more

    def watch(self, items: Tensor) -> Watched:
        bias = self.encoders["text"].bias
        assert isinstance(bias, Tensor)
        self.watched_bias = float(bias.detach())
        return Watched(self.left.pop(0), {"bias": self.watched_bias})

    def write(self, folder: Path) -> list[Path]:
        raise NotImplementedError


def test_the_best_epochs_weights_are_kept_and_patience_ends_it() -> None:
    task = _Scripted([5.0, 3.0, 4.0, 4.0, 1.0])
    table = PretrainingOptimiserTable(batch_size=2, max_epochs=5, patience=2)
    done = pretrain_task(task, torch.arange(5), torch.arange(2), table)
    assert (done.best_epoch, done.losses) == (2, (5.0, 3.0, 4.0, 4.0))
    bias = task.encoders["text"].bias
    assert isinstance(bias, Tensor)
    assert done.after.figures["bias"] == float(bias.detach()) != task.watched_bias
    assert not task.encoders.training
    for start in range(0, 12, 3):  # each epoch sees every item once
        assert sorted(torch.cat(task.seen[start : start + 3]).tolist()) == list(range(5))


def test_a_loss_that_is_no_number_stops_it_and_nothing_is_written(
    masked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = MaskedLanguage.loss
    monkeypatch.setattr(
        MaskedLanguage, "loss", lambda self, items: loss(self, items) * float("nan")
    )
    with pytest.raises(
        TrainingError, match="the loss is nan at step 1 of epoch 1, and nothing was"
    ):
        pretrain(masked, out=tmp_path / "encoders")
    assert [path.name for path in tmp_path.iterdir()] == ["masked.toml"]


def test_a_full_disk_leaves_the_old_encoder(
    masked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "encoders"
    old.mkdir()
    (old / "pretraining.json").write_text("old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run, "write_seen", full)
    with pytest.raises(
        RecipeError, match=r"cannot be written \(No space left on device\), and what"
    ):
        pretrain(masked, out=old)
    assert (old / "pretraining.json").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoders", "masked.toml"]


def test_a_folder_that_is_no_encoder_is_left_alone(masked: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").write_text("dear")
    with pytest.raises(RecipeError, match="is there and is no pretrained encoder; choose another"):
        pretrain(masked, out=tmp_path / "letters")


def test_a_tokenizer_without_a_mask_is_refused(sources: dict[str, str], tmp_path: Path) -> None:
    text = Path(shutil.copytree(sources["text"], tmp_path / "text"))
    settings = json.loads((text / "tokenizer_config.json").read_text())
    settings["mask_token"] = None
    (text / "tokenizer_config.json").write_text(json.dumps(settings))
    path = write(tmp_path / "recipe.toml", {**sources, "text": str(text)}, "masked_language")
    with pytest.raises(RecipeError, match="has no mask token, so nothing can be hidden"):
        pretrain(path, out=tmp_path / "encoders")


@pytest.mark.parametrize(
    ("objective", "more", "message"),
    [
        ("masked_language", "[contrastive]\nwidth = 8", r"\[contrastive\] is not for objective"),
        ("contrastive", "[masking]\nprobability = 0.2", r"\[masking\] is not for objective"),
        ("contrastive", '[contrastive]\ntrain = ["text", "text"]', "'text' is there twice"),
        ("contrastive", "[contrastive]\ntrain = []", r"contrastive\.train: .*at least 1 item"),
        ("denoising", "", "objective: Input should be 'masked_language' or 'contrastive'"),
    ],
)
def test_problems_of_a_recipe_are_named(
    objective: str, more: str, message: str, sources: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        load_pretraining_recipe(write(tmp_path / "recipe.toml", sources, objective, more))


def test_a_damaged_image_encoder_is_refused(sources: dict[str, str], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sources["image"], tmp_path / "image"))
    (folder / "model.safetensors").write_bytes(b"short")
    with pytest.raises(RecipeError, match=r"is no whole image encoder \(.*run tritium pretrain"):
        load_image_encoder(str(folder), "pooled")


def test_the_command_says_how_it_went(masked: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        build_app()[0], ["pretrain", str(masked), "--out", str(tmp_path / "e"), "--json"]
    )
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed["folder"] == str(tmp_path / "e")
    report = PretrainingReport.model_validate(printed["report"])
    assert report.best_epoch == 1 + report.losses.index(min(report.losses))
