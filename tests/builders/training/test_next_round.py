"""`tritium train --from`: what was held out stays so, and a bundle learns from new data."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from tests.support.manifests import Pair, pairs, tiny_encoders, write_csv, write_jsonl, write_recipe
from tests.support.pictures import png
from tritium_builders import Bundle
from tritium_builders.bundle import file_entry, write_manifest
from tritium_builders.data import Dataset, Item
from tritium_builders.data.card import DataCard
from tritium_builders.errors import RecipeError
from tritium_builders.graphs import load_module
from tritium_builders.models import ConcatFusion
from tritium_builders.reports.page import read_content, render_page
from tritium_builders.training import load_recipe, train
from tritium_builders.training.own_data import load_encoders
from tritium_builders.training.recipe import SplitTable
from tritium_builders.training.rounds.additions import place
from tritium_builders.training.rounds.record import RoundRecord
from tritium_builders.training.rounds.run import train_next
from tritium_builders.training.rounds.start import Start, encoders_of
from tritium_builders.training.splits import Split
from tritium_client.cli import build_app

FOLDS = "\n[split]\nfolds = 3\nvalidation_folds = 4\n"


@dataclass(frozen=True)
class FirstRound:
    """A bundle, and what it was trained from."""

    bundle: Bundle
    recipe: Path
    rows: list[Pair]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> FirstRound:
    folder = tmp_path_factory.mktemp("first")
    rows = pairs(folder, 36)
    write_csv(folder / "pairs.csv", rows)
    recipe = write_recipe(
        folder, tiny_encoders(tmp_path_factory.mktemp("encoders")), "pairs.csv", split=FOLDS
    )
    return FirstRound(train(recipe, out=folder / "bundle"), recipe, rows)


def new_rows(folder: Path, labels: tuple[str, ...] = ("cat", "dog", "elk", "yak")) -> list[Pair]:
    """A queue that somebody has labelled in part; the last row nobody has got to."""
    rows = [
        row | {"id": f"q{n}", "text": f"new {n}"} for n, row in enumerate(pairs(folder, 40, labels))
    ]
    for number, row in enumerate(rows):
        (folder / row["image"]).write_bytes(png(25, 25 + number, seed=500 + number))
    return [*rows, rows[0] | {"id": "open", "label": ""}]


def item(number: int, *, label: str = "a", **changes: Any) -> Item:
    made = Item(str(number), f"text {number}", f"picture {number}".encode(), label, f"own {number}")
    return replace(made, **changes)


def old_data() -> tuple[Dataset, Split]:
    """0 to 5 are trained on, 6 and 7 watched, 8 and 9 held out."""
    items = tuple(item(number, label="ab"[number % 2]) for number in range(10))
    sides = (np.arange(6), np.arange(6, 8), np.arange(8, 10))
    return Dataset("old", items, "", ""), Split(*(side.astype(np.int64) for side in sides))


def test_near_duplicates_of_what_judges_are_left_out() -> None:
    old, split = old_data()
    new = [
        item(20),
        item(21, text="TEXT  8"),  # a held-out text, but for case and blanks
        item(22, image=b"picture 9"),
        item(23, group="own 8"),
        item(24, image=b"picture 6"),
        item(25, text="text 0", image=b"picture 0", label="a"),
        item(26, text="text 1", image=b"picture 1", label="a"),
        item(27, text="far", image=b"away"),
    ]
    placed = place(old, split, [new], SplitTable(), [("Far", b"other")])
    assert [one.id for one in placed.items] == ["20"]
    assert placed.left_out == {
        "like_held_out": 4, "like_validation": 1, "known": 1, "contradicts": 1
    }  # fmt: skip
    # One that an earlier round held out is held out again.
    again = place(
        old, split, [[item(30), item(31, text="far")]], SplitTable(), [("far", b"picture 31")]
    )
    assert [one.id for one in again.items] == ["30", "31"]
    assert again.sides[1] == "test"


def test_new_items_keep_their_side_whatever_else_comes() -> None:
    old, split = old_data()
    new = [item(number) for number in range(100, 400)]
    table = SplitTable(folds=4, validation_folds=3)
    alone = place(old, split, [new], table)
    # Later items that bring earlier ones together, and are like them, move none of them.
    later = [item(n, text=f"text {n - 300}") for n in range(400, 500)]
    later += [item(n, group="own 100", text=f"text {n - 300}") for n in range(500, 600)]
    more = place(old, split, [list(reversed(new)), later], table)
    sides = dict(zip((one.id for one in more.items), more.sides, strict=True))
    moved = [
        one.id for one, side in zip(alone.items[1:], alone.sides[1:], strict=True)
        if sides[one.id] != side and one.id != "399"
    ]  # fmt: skip
    assert not moved
    shares = {side: alone.sides.count(side) / 300 for side in ("train", "validation", "test")}
    assert shares["test"] == pytest.approx(1 / 4, abs=0.07)
    assert shares["validation"] == pytest.approx(1 / 4, abs=0.07)


def test_what_belongs_together_is_on_one_side() -> None:
    old, split = old_data()
    chained = [item(n, group=f"g {n // 2}", text=f"t {(n + 1) // 2}") for n in range(100, 140)]
    assert len(set(place(old, split, [chained], SplitTable(folds=2)).sides)) == 1
    near = [
        item(n, group="own 0" if n == 100 else f"own {n}", text="alike") for n in range(100, 130)
    ]
    assert set(place(old, split, [near], SplitTable(folds=2)).sides) == {"train"}
    given = [item(n, side="test" if n % 2 else "validation") for n in range(100, 120)]
    assert place(old, split, [given], SplitTable()).sides == ("validation", "test") * 10
    fresh = [item(n, label="new") for n in range(100, 150)]
    first = place(old, split, [fresh], SplitTable(folds=2))
    assert first.sides[0] == "train"
    assert "test" in first.sides


def test_a_head_starts_with_the_old_weights_and_new_rows_of_its_own() -> None:
    def head(labels: int, seed: int) -> ConcatFusion:
        torch.manual_seed(seed)
        made = ConcatFusion(text_features=6, image_features=5, labels=labels, width=4, hidden=4)
        return made.eval()

    old, new, fresh = head(3, 0), head(5, 1), head(5, 1)
    Start(old.state_dict(), 3).apply(new)
    features = torch.randn(2, 6), torch.randn(2, 5)
    torch.testing.assert_close(new(*features)[:, :3], old(*features))
    rows = [made.state_dict()["classifier.3.weight"][3:] for made in (new, fresh)]
    assert torch.equal(*rows)


def test_the_next_bundle_knows_the_old_and_the_new(first: FirstRound, tmp_path: Path) -> None:
    rows = new_rows(tmp_path)
    rows[3] |= {"text": first.bundle.validation[0].text}
    new = write_jsonl(tmp_path / "new.jsonl", rows)
    bundle = train_next(first.recipe, first.bundle.folder, [new], out=tmp_path / "next")
    assert bundle.manifest.labels == [*first.bundle.manifest.labels, "yak"]
    record = RoundRecord.model_validate_json((bundle.folder / "round.json").read_bytes())
    assert record.previous.hash == first.bundle.hash
    assert record.previous.bundle == str(first.bundle.folder)
    assert (record.files[0].unlabelled, record.new_labels) == (1, ["yak"])
    assert record.left_out == {"like_held_out": 1}
    assert sum(record.added.values()) == 39
    card = DataCard.model_validate_json((bundle.folder / "data_card.json").read_bytes())
    assert card.previous == record.previous
    assert card.items == 36 + 39
    # What was held out is held out again, and new items have joined it.
    before = [sample.content_hash for sample in first.bundle.validation]
    after = [sample.content_hash for sample in bundle.validation]
    assert after[: len(before)] == before
    assert len(after) == len(before) + record.added["test"]
    rows_by_name = {row.items: row for row in record.compared}
    assert rows_by_name["held out before"].count == len(before)
    report = json.loads((first.bundle.folder / "report.json").read_bytes())
    earlier = rows_by_name["held out before"].previous_accuracy
    assert earlier == pytest.approx(report["fusion"]["by_seed"]["0"])
    # Head and nothing else has changed.
    for name, entry in first.bundle.manifest.files.items():
        if "encoder" in name or name == "tokenizer.json":
            assert bundle.manifest.files[name] == entry
    # The command line makes the same bundle, and shows what came of it.
    done = run(first, "--from", str(first.bundle.folder), "--data", str(new),
               "--out", str(tmp_path / "again"))  # fmt: skip
    assert done.exit_code == 0, done.output
    assert Bundle.load(tmp_path / "again").hash == bundle.hash
    shown = " ".join(done.stdout.split())
    assert "held out before" in shown
    assert "1 items have no label yet" in shown
    assert "New labels: yak" in shown
    page = (tmp_path / "again" / "report.html").read_text("utf-8")
    assert page == render_page(read_content(bundle.folder)).decode()
    assert 'id="round"' in page
    assert f"<code>{first.bundle.hash[:12]}</code>" in page
    assert f"<td>{100 * earlier:.1f}</td><td><b>" in page
    assert "New labels: yak" in page
    assert 'id="round"' not in (first.bundle.folder / "report.html").read_text("utf-8")
    head = load_module(bundle, "fusion_head", "concat")
    assert not torch.equal(
        head.state_dict()["absent_text"],
        load_module(first.bundle, "fusion_head", "concat").state_dict()["absent_text"],
    )
    _a_third_round(first, bundle, new, tmp_path)


def _a_third_round(first: FirstRound, second: Bundle, new: Path, folder: Path) -> None:
    """What the second round held out is held out in the third, and its labels are not lost."""
    (folder / "third").mkdir()
    rows = pairs(folder / "third", 12, ("dog",))
    for number, row in enumerate(rows):
        row["text"] = f"third {number}"
        (folder / "third" / row["image"]).write_bytes(png(20, 20, seed=900 + number))
    newer = write_jsonl(folder / "third" / "newer.jsonl", rows)
    third = train_next(first.recipe, second.folder, [new, newer], out=folder / "3")
    held_out = {sample.content_hash for sample in third.validation}
    assert {sample.content_hash for sample in second.validation} <= held_out
    assert third.manifest.labels == second.manifest.labels
    with pytest.raises(RecipeError, match="its label 'yak' has no item any more; give the data"):
        train_next(first.recipe, second.folder, [newer], out=folder / "4")


def test_what_does_not_fit_is_refused_before_anything_is_written(
    first: FirstRound, tmp_path: Path
) -> None:
    new = write_jsonl(tmp_path / "new.jsonl", new_rows(tmp_path))

    def refused(message: str, recipe: Path = first.recipe, data: Path = new, **given: Any) -> None:
        out = given.get("out", tmp_path / "out")
        with pytest.raises(RecipeError, match=message):
            train_next(recipe, first.bundle.folder, [data], out=out)
        assert not (tmp_path / "out").exists()

    def changed(old: str, now: str) -> Path:
        path = first.recipe.with_name("changed.toml")
        path.write_text(first.recipe.read_text().replace(old, now))
        return path

    refused("would be in the place of the bundle", out=first.bundle.folder)
    refused("its head has width 16 and the recipe 24", changed("width = 16", "width = 24"))
    refused(
        "its head is 'concat' and the recipe's is 'gated'",
        changed("[fusion]", '[fusion]\nstrategy = "gated"'),
    )
    refused(
        r"the recipe has an \[ensemble\]",
        changed("[optimiser]", '[ensemble]\nkind = "bagging"\n\n[optimiser]'),
    )
    other = tiny_encoders(tmp_path / "other")
    from transformers import BertModel

    weights = BertModel.from_pretrained(other[0])
    with torch.no_grad():
        weights.embeddings.word_embeddings.weight[0] += 1
    weights.save_pretrained(other[0])
    refused(
        "its text encoder has another set of weights", changed(*_source(first.recipe, other[0]))
    )
    refused("was on another side of the split", changed("[split]", "[split]\nseed = 3"))
    known = write_csv(first.recipe.parent / "known.csv", first.rows[:6])
    refused("holds nothing to train on", data=known)


def _source(recipe: Path, encoder: Path) -> tuple[str, str]:
    """The line that names the recipe's text encoder, and one that names another."""
    lines = recipe.read_text().splitlines()
    return lines[lines.index("[text_encoder]") + 1], f'source = "{encoder}"'


def test_an_encoder_that_has_learned_is_the_bundles(first: FirstRound, tmp_path: Path) -> None:
    """The recipe names what it began as."""
    folder = Path(shutil.copytree(first.bundle.folder, tmp_path / "learned"))
    path = folder / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    weights[name] = weights[name] + 1
    save_file(weights, path)
    files = {**first.bundle.manifest.files, "text_encoder/model.safetensors": file_entry(path)}
    write_manifest(folder, first.bundle.manifest.model_copy(update={"files": files}))
    recipe = load_recipe(first.recipe)
    loaded = load_encoders(recipe)
    text, image = encoders_of(Bundle.load(folder), recipe, *loaded)
    assert torch.equal(text.module.state_dict()[name], weights[name])
    assert image.module is loaded[1].module
    assert not any(parameter.requires_grad for parameter in text.module.parameters())


def run(first: FirstRound, *arguments: str) -> Any:
    return CliRunner().invoke(build_app()[0], ["train", str(first.recipe), *arguments])


def test_options_that_contradict_each_other_are_wrong_usage(first: FirstRound) -> None:
    previous, data = ["--from", str(first.bundle.folder)], ["--data", "new.jsonl"]
    assert run(first, *previous).exit_code == 2
    assert run(first, *data).exit_code == 2
    for option in (["--reuse"], ["--cross-validate"], ["--compare", "all"]):
        assert run(first, *previous, *data, *option).exit_code == 2
