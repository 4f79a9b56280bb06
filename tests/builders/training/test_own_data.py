"""From a manifest to a bundle and a release: real files, tiny encoders, the real command line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support.manifests import LABELS, Pair, pairs, tiny_encoders, write_csv, write_recipe
from tests.support.pictures import png
from tritium_builders import Bundle, build
from tritium_builders.data.card import DataCard
from tritium_builders.data.problems import ManifestError
from tritium_builders.errors import RecipeError
from tritium_builders.training import train
from tritium_builders.training.report import TrainingReport
from tritium_builders.training.run import check_data, cross_validate

FOLDS = "\n[split]\nfolds = 3\nvalidation_folds = 4\n"


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tiny_encoders(tmp_path_factory.mktemp("encoders"))


def with_splits(rows: list[Pair]) -> list[Pair]:
    """The first half is trained on, a quarter each is watched and held out."""
    names = ["train"] * (len(rows) // 2) + ["validation"] * (len(rows) // 4)
    names += ["test"] * (len(rows) - len(names))
    return [row | {"split": name} for row, name in zip(rows, names, strict=True)]


@dataclass(frozen=True)
class Trained:
    """A bundle, and what it was trained from."""

    bundle: Bundle
    recipe: Path
    rows: list[Pair]


@pytest.fixture(scope="module")
def trained(encoders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """With splits of its own, labels in an order of their own, and one corrupt picture."""
    folder = tmp_path_factory.mktemp("own")
    rows = with_splits(pairs(folder, 48))
    (folder / rows[5]["image"]).write_bytes(b"no picture")
    write_csv(folder / "pairs.csv", rows)
    data = 'bad_images = "skip"\nlabels = ["elk", "cat", "dog"]\nlicence = "CC0-1.0"\n'
    recipe = write_recipe(folder, encoders, "pairs.csv", data=data)
    return Trained(train(recipe, out=folder / "bundle"), recipe, rows)


def test_the_bundle_holds_the_test_split(trained: Trained) -> None:
    bundle, rows = trained.bundle, trained.rows
    test = [row for row in rows if row["split"] == "test"]
    assert [sample.text for sample in bundle.validation] == [row["text"] for row in test]
    assert [sample.label for sample in bundle.validation] == [row["label"] for row in test]
    folder = trained.recipe.parent
    assert bundle.validation[0].image == (folder / test[0]["image"]).read_bytes()
    train_texts = {row["text"] for row in rows if row["split"] == "train"}
    picked = (*bundle.golden, *bundle.calibration)
    assert len(picked) == 6
    assert {sample.text for sample in picked} <= train_texts
    assert bundle.manifest.labels == ["elk", "cat", "dog"]
    assert bundle.manifest.sources.data_licence == "CC0-1.0"
    assert bundle.manifest.sources.data.startswith("pairs.csv, 47 items")


def test_the_bundle_holds_the_data_card(trained: Trained) -> None:
    content = (trained.bundle.folder / "data_card.json").read_bytes()
    card = DataCard.model_validate_json(content)
    assert "data_card.json" in trained.bundle.manifest.files
    assert card == check_data(trained.recipe)
    assert card.splits == "manifest"
    assert card.sides == {"train": 23, "validation": 12, "test": 12}
    assert list(card.labels) == ["elk", "cat", "dog"]
    assert [one.line for one in card.skipped_pictures] == [7]
    assert card.texts.max_tokens == 40
    assert 5 < card.texts.tokens.max < 12


def test_the_report_names_no_fold(trained: Trained) -> None:
    content = (trained.bundle.folder / "report.json").read_bytes()
    report = TrainingReport.model_validate_json(content)
    assert (report.fold, report.folds) == (None, None)
    assert report.held_out == 12


def test_training_again_gives_the_same_bundle(trained: Trained, tmp_path: Path) -> None:
    assert train(trained.recipe, out=tmp_path / "again").hash == trained.bundle.hash


def test_a_bundle_is_taken_again_only_for_the_same_data(
    encoders: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = pairs(tmp_path, 30)
    write_csv(tmp_path / "pairs.csv", rows)
    recipe = write_recipe(tmp_path, encoders, "pairs.csv", split=FOLDS)
    first = train(recipe, out=tmp_path / "bundle")
    made = (tmp_path / "bundle").stat().st_ino
    assert train(recipe, out=tmp_path / "bundle", reuse=True).hash == first.hash
    assert (tmp_path / "bundle").stat().st_ino == made
    (tmp_path / rows[0]["image"]).write_bytes(png(33, 33, seed=99))
    assert train(recipe, out=tmp_path / "bundle", reuse=True).hash != first.hash
    assert (tmp_path / "bundle").stat().st_ino != made


def test_folds_hold_out_groups(encoders: tuple[Path, Path], tmp_path: Path) -> None:
    rows = [row | {"group": f"g{number // 2}"} for number, row in
            enumerate(pairs(tmp_path, 60, labels=("cat", "cat", "dog", "dog")))]  # fmt: skip
    write_csv(tmp_path / "pairs.csv", rows)
    recipe = write_recipe(tmp_path, encoders, "pairs.csv", split=FOLDS)
    bundle = train(recipe, out=tmp_path / "bundle")
    held_out = {sample.text for sample in bundle.validation}
    groups = {row["group"] for row in rows if row["text"] in held_out}
    assert held_out == {row["text"] for row in rows if row["group"] in groups}
    assert 0 < len(held_out) < 60
    reports = cross_validate(recipe)
    assert [report.fold for report in reports] == [0, 1, 2]
    assert sum(report.held_out for report in reports) == 60


def test_a_bundle_may_keep_some_of_the_held_out_items(trained: Trained, tmp_path: Path) -> None:
    """For test splits of many pictures: the report is of all, the gates of `build` of some."""
    recipe = trained.recipe.parent / "some.toml"
    recipe.write_text(trained.recipe.read_text() + "validation = 6\n")
    bundle = train(recipe, out=tmp_path / "bundle")
    assert sorted(sample.label or "" for sample in bundle.validation) == [
        "cat", "cat", "dog", "dog", "elk", "elk",
    ]  # fmt: skip
    everything = {sample.text for sample in trained.bundle.validation}
    assert {sample.text for sample in bundle.validation} < everything
    report = json.loads((bundle.folder / "report.json").read_bytes())
    assert report["held_out"] == 12


def test_given_splits_cannot_be_cross_validated(trained: Trained) -> None:
    with pytest.raises(RecipeError, match=r"pairs\.csv: gives splits, so there are no folds to "
                       "hold out in turn; train without --cross-validate"):  # fmt: skip
        cross_validate(trained.recipe)


def test_a_split_table_beside_given_splits_is_noted(
    trained: Trained, encoders: tuple[Path, Path]
) -> None:
    folder = trained.recipe.parent
    recipe = folder / "other.toml"
    recipe.write_text(trained.recipe.read_text() + "\n[split]\nfolds = 7\n")
    assert check_data(recipe).notes[0] == (
        "the recipe's [split] is not used: the manifest gives splits"
    )
    assert "[split]" not in "".join(check_data(trained.recipe).notes)


def test_folds_need_enough_items_of_each_label(encoders: tuple[Path, Path], tmp_path: Path) -> None:
    write_csv(tmp_path / "pairs.csv", pairs(tmp_path, 18))
    recipe = write_recipe(tmp_path, encoders, "pairs.csv", split=FOLDS)
    message = "label 'cat' has 6 items in 6 groups, and folds need 7 groups; add items"
    with pytest.raises(ManifestError, match=message) as caught:
        check_data(recipe)
    assert len(caught.value.problems) == len(LABELS)


def test_pictures_are_tried_by_the_encoders_own_decoder(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tritium_builders.servables import image_decoder

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    seen: list[dict[str, Any]] = []
    decode = image_decoder.decode

    def noted(data: bytes, spec: dict[str, Any]) -> Any:
        seen.append(spec)
        return decode(data, spec)

    monkeypatch.setattr(image_decoder, "decode", noted)
    check_data(trained.recipe)
    assert len(seen) == 48
    assert seen[0] == trained.bundle.manifest.image.servable_spec()


def test_few_pictures_are_in_memory_at_once(
    encoders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checking and encoding 96 pictures of a megabyte each takes far less than 96 megabytes."""
    import tracemalloc

    from tritium_builders.training.folds import prepare
    from tritium_builders.training.recipe import load_recipe

    rows = pairs(tmp_path, 96)
    for row in rows:
        with (tmp_path / row["image"]).open("ab") as file:
            file.write(b"\0" * 1_000_000)  # what stands behind a picture's end is not decoded
    write_csv(tmp_path / "pairs.csv", rows)
    recipe = load_recipe(write_recipe(tmp_path, encoders, "pairs.csv", split=FOLDS))
    tracemalloc.start()
    try:
        prepare(recipe, tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40e6


def run(*arguments: str) -> Any:
    """The builders' verbs, in this process."""
    import typer

    from tritium_builders.commands import register

    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, list(arguments), env={"NO_COLOR": "1", "COLUMNS": "120"})


def test_the_command_shows_the_card(trained: Trained) -> None:
    shown = run("data", "check", str(trained.recipe))
    assert shown.exit_code == 0, shown.output
    assert "pairs.csv: 47 items, splits given by the manifest" in shown.output
    assert "left out: line 7, pictures/005.png: not a picture" in shown.output
    printed = json.loads(run("data", "check", str(trained.recipe), "--json").stdout)
    assert printed == json.loads((trained.bundle.folder / "data_card.json").read_bytes())


def test_the_command_tells_problems_line_by_line(
    encoders: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = pairs(tmp_path, 30)
    rows[0]["text"] = rows[1]["text"] = ""
    write_csv(tmp_path / "pairs.csv", rows)
    recipe = write_recipe(tmp_path, encoders, "pairs.csv", split=FOLDS)
    for verb in (("data", "check"), ("train",)):
        failed = run(*verb, str(recipe))
        assert failed.exit_code == 1
        lines = failed.stderr.splitlines()
        assert [line.partition(": ")[0] for line in lines] == [
            "pairs.csv, line 2", "pairs.csv, line 3",
        ]  # fmt: skip
    failed = run("data", "check", str(recipe), "--json")
    assert failed.exit_code == 1
    printed = json.loads(failed.stdout)
    assert printed["more"] == 0
    assert [problem["column"] for problem in printed["problems"]] == ["text", "text"]


def test_the_train_command_prints_the_card(trained: Trained) -> None:
    folder = trained.bundle.folder
    shown = run("train", str(trained.recipe), "--out", str(folder), "--reuse")
    assert shown.exit_code == 0, shown.output
    assert "pairs.csv: 47 items, splits given by the manifest" in shown.output
    assert "(the manifest's test split, 1 seeds)" in " ".join(shown.output.split())
    printed = run("train", str(trained.recipe), "--out", str(folder), "--reuse", "--json")
    assert json.loads(printed.stdout)["data_card"]["items"] == 47


def test_the_bundle_builds(trained: Trained, tmp_path: Path) -> None:
    release = build(trained.bundle, target="onnxruntime", repository=tmp_path / "models")
    assert release.number == 1
    assert release.labels == ["elk", "cat", "dog"]


def test_the_card_is_a_page_too(trained: Trained, tmp_path: Path) -> None:
    page = tmp_path / "pages" / "card.html"
    shown = run("data", "check", str(trained.recipe), "--html", str(page))
    assert shown.exit_code == 0, shown.output
    for content in (page.read_text(), (trained.bundle.folder / "report.html").read_text()):
        assert "left out" in content
        assert "pictures/005.png" in content
        for label in LABELS:
            assert label in content
