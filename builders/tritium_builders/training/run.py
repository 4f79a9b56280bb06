"""`train`: one recipe in, one bundle out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tritium_builders.bundle import MANIFEST, Bundle
from tritium_builders.bundle_schema import Sources
from tritium_builders.errors import RecipeError, needs
from tritium_builders.training.recipe import ManifestTable, Recipe, load_recipe

if TYPE_CHECKING:
    from tritium_builders.data import Dataset, Item
    from tritium_builders.data.card import DataCard
    from tritium_builders.training.comparison import Comparison
    from tritium_builders.training.folds import Prepared, TrainedFold
    from tritium_builders.training.report import TrainingReport
    from tritium_builders.training.rounds.record import RoundRecord
    from tritium_builders.training.task_report import TaskReport

    AnyReport = TrainingReport | TaskReport

REPORT = "report.json"
PAGE = "report.html"
"""The report for people, in the bundle."""
RECIPE = "recipe.json"
"""What the bundle was trained from, in the bundle."""
ROUND = "round.json"
"""Which bundle it continues and what that brought, where it does."""
DATA_CARD = "data_card.json"
"""What the data consists of, in the bundle."""


def train(
    recipe_path: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    reuse: bool = False,
) -> Bundle:
    """Train what a recipe says and write the bundle; the same recipe gives the same bundle.

    The bundle holds the head of the recipe's first seed, the report as `report.json` and
    `report.html`, golden and calibration samples from the training side, and the held-out fold
    as validation samples.
    A bundle that is already there is replaced, at the very end and in one step.

    Args:
        recipe_path: A recipe file.
        out: The bundle's folder. Default: what the recipe says, else `bundles/<app>`.
        reuse: Take the bundle that is already there when the same recipe made it, of the same
            data.

    Raises:
        RecipeError: when the recipe, or something that it names, cannot be used.
        MissingExtraError: when a package is not installed.
        BundleError, ExportError: when the trained modules cannot be served.
    """
    recipe = load_recipe(Path(recipe_path))
    folder = Path(recipe_path).parent
    target = Path(out) if out is not None else recipe.bundle_folder
    check_target(target)
    if reuse and made_by(recipe, target) and _of_the_same_data(recipe, folder, target):
        return Bundle.load(target)
    with needs("train"):
        from tritium_builders.training.folds import prepare
    prepared = prepare(recipe, folder)
    shipped, report = train_seeds(prepared)
    return ship(prepared, shipped, target, report)


def check_data(recipe_path: str | os.PathLike[str]) -> DataCard:
    """Check the data of a recipe, pictures included, and describe it; train nothing.

    Args:
        recipe_path: A recipe file.

    Raises:
        RecipeError: with file, line, column and fix of the first ten problems.
        MissingExtraError: when a package is not installed.
    """
    recipe = load_recipe(Path(recipe_path))
    with needs("train"):
        from tritium_builders.training.own_data import load_data, load_encoders
    data = load_data(recipe, Path(recipe_path).parent, *load_encoders(recipe))
    assert data.card is not None  # noqa: S101 - all data has one
    return data.card


def compare_strategies(
    recipe_path: str | os.PathLike[str],
    names: str,
    *,
    seeds: Sequence[int] | None = None,
) -> Comparison:
    """Train a recipe's data with several fusion strategies, and write nothing.

    Args:
        recipe_path: A recipe file; all but its strategy stays as it says.
        names: Strategies with commas between them, or `all` that fit the recipe's pooling.
        seeds: Default: the recipe's.

    Raises:
        RecipeError: when the recipe, or something that it or `names` names, cannot be used.
        MissingExtraError: when a package is not installed.
        ExportError: when a head cannot be exported.
    """
    prepared, comparison = _compare(Path(recipe_path), load_recipe(Path(recipe_path)), names, seeds)
    _forget_strategies(prepared, comparison)
    return comparison


def train_best(
    recipe_path: str | os.PathLike[str],
    names: str,
    *,
    out: str | os.PathLike[str] | None = None,
) -> tuple[Bundle, Comparison]:
    """Compare strategies, and write the bundle that the recipe with the best one makes.

    The best is chosen on the validation side; the bundle's report is of the held-out fold.

    Args:
        recipe_path: A recipe file.
        names: Strategies with commas between them, or `all` that fit the recipe's pooling.
        out: The bundle's folder. Default: what the recipe says, else `bundles/<app>`.

    Raises:
        RecipeError, MissingExtraError, BundleError, ExportError: as `train` and
            `compare_strategies`.
    """
    recipe = load_recipe(Path(recipe_path))
    target = Path(out) if out is not None else recipe.bundle_folder
    check_target(target)
    prepared, comparison = _compare(Path(recipe_path), recipe, names, None)
    from tritium_builders.training.compare import with_strategy

    best = with_strategy(prepared, comparison.best)
    shipped, report = train_seeds(best)
    bundle = ship(best, shipped, target, report)
    _forget_strategies(prepared, comparison)
    return bundle, comparison


def _forget_strategies(prepared: Prepared, comparison: Comparison) -> None:
    """Remove the checkpoints of what was compared."""
    from tritium_builders.training.checkpoints import forget
    from tritium_builders.training.compare import with_strategy

    for row in comparison.strategies:
        own = with_strategy(prepared, row.strategy)
        forget(own.checkpoints(prepared.recipe.split.fold))


def ship(
    prepared: Prepared,
    shipped: TrainedFold,
    target: Path,
    report: AnyReport,
    continued: RoundRecord | None = None,
) -> Bundle:
    """Write the bundle; of several processes that trained together, the first one does.

    Args:
        prepared: What the head was trained with.
        shipped: The head.
        target: The folder.
        report: Of the training.
        continued: Of the bundle that was trained on, kept as `round.json`.
    """
    from tritium_builders.training.checkpoints import forget
    from tritium_builders.training.distributed import processes

    if not processes().is_first:
        processes().wait()
        return Bundle.load(target)
    bundle = write_bundle(prepared, shipped, target, report=report, continued=continued)
    forget(prepared.checkpoints(shipped.fold))
    processes().wait()
    return bundle


def _compare(
    path: Path, recipe: Recipe, names: str, seeds: Sequence[int] | None
) -> tuple[Prepared, Comparison]:
    with needs("train"):
        from tritium_builders.training.compare import chosen_strategies, compare
        from tritium_builders.training.folds import prepare
    _require_classes(recipe, "--compare")
    strategies = chosen_strategies(recipe, names)
    if seeds is not None:
        recipe = recipe.model_copy(update={"seeds": list(seeds)})
    prepared = prepare(recipe, path.parent)
    return prepared, compare(prepared, strategies)


def cross_validate(recipe_path: str | os.PathLike[str]) -> list[TrainingReport]:
    """Train what a recipe says with every fold held out in turn, and write nothing.

    One fold is a small sample; every item of the data set is held out once here.

    Args:
        recipe_path: A recipe file.

    Returns:
        One report for each fold.

    Raises:
        RecipeError: when the recipe, or something that it names, cannot be used.
        MissingExtraError: when a package is not installed.
    """
    recipe = load_recipe(Path(recipe_path))
    _require_classes(recipe, "--cross-validate")
    with needs("train"):
        from tritium_builders.training.checkpoints import forget
        from tritium_builders.training.folds import prepare
        from tritium_builders.training.report import TrainingReport
    prepared = prepare(recipe, Path(recipe_path).parent, every_fold=True)
    reports = []
    for fold in range(recipe.split.folds):
        split = recipe.split.model_copy(update={"fold": fold})
        held_out = replace(prepared, recipe=recipe.model_copy(update={"split": split}))
        report = train_seeds(held_out)[1]
        forget(held_out.checkpoints(fold))
        assert isinstance(report, TrainingReport)  # noqa: S101 - of a classification
        reports.append(report)
    return reports


def _require_classes(recipe: Recipe, option: str) -> None:
    if recipe.task != "classification":
        raise RecipeError(
            f"{option} is for classification, and this recipe is for {recipe.task}; train it "
            "without"
        )


def train_seeds(prepared: Prepared) -> tuple[TrainedFold, AnyReport]:
    """Train fusion and single-modality heads for every seed of the recipe.

    Returns:
        The first seed's fusion head, and the comparison of all.
    """
    import torch

    from tritium_builders.data.progress import track
    from tritium_builders.training.folds import train_fold
    from tritium_builders.training.objective import make_objective
    from tritium_builders.training.report import make_report
    from tritium_builders.training.task_report import make_task_report

    recipe = prepared.recipe
    objective = make_objective(recipe, prepared.dataset, prepared.features)
    objective.balance(torch.from_numpy(prepared.split(recipe.split.fold).train))
    runs = [(kind, seed) for kind in objective.kinds for seed in recipe.seeds]
    # Encoders that learn have a bar for each epoch.
    shown = runs if recipe.fine_tunes else track(runs, "Training heads", total=len(runs))
    done: list[TrainedFold] = []
    for kind, seed in shown:
        one = train_fold(prepared, fold=recipe.split.fold, seed=seed, kind=kind)
        # The first goes into the bundle; other encoders would only fill the memory.
        done.append(replace(one, text_encoder=None, image_encoder=None) if done else one)
    trained = {
        kind: [one for one, (own_kind, _) in zip(done, runs, strict=True) if own_kind == kind]
        for kind in objective.kinds
    }
    if recipe.task != "classification":
        return trained["fusion"][0], make_task_report(prepared, objective, trained)
    dataset = prepared.dataset
    shipped = trained["fusion"][0]
    report = make_report(
        app=recipe.app,
        dataset=dataset,
        folds=None if dataset.has_sides else recipe.split.folds,
        trained=trained,
        train=prepared.split(shipped.fold).train.tolist(),
        kept={item.id for item in _validation_items(prepared, shipped)},
    )
    return shipped, report


def write_bundle(
    prepared: Prepared,
    trained: TrainedFold,
    path: str | os.PathLike[str],
    *,
    report: AnyReport | None = None,
    continued: RoundRecord | None = None,
) -> Bundle:
    """Write a bundle with one trained fusion head.

    Args:
        prepared: What the head was trained with.
        trained: The head; the items that it never saw become the validation samples.
        path: The folder; a bundle that is already there is replaced.
        report: Kept in the bundle as `report.json`, and drawn as `report.html`.
        continued: Of the bundle that was trained on: kept as `round.json`, and in the page.

    Raises:
        RecipeError: when `path` is something else than a bundle.
        BundleError, ExportError: when the modules cannot be served.
    """
    with needs("train"):
        from tritium_builders.reports.content import PageContent
        from tritium_builders.reports.page import render_page
    check_target(Path(path))
    recipe, dataset = prepared.recipe, prepared.dataset
    picked = pick_items(
        dataset,
        prepared.split(trained.fold).train.tolist(),
        recipe.samples.golden + recipe.samples.calibration,
    )
    validation = [item.sample(labelled=True) for item in _validation_items(prepared, trained)]
    sources = _sources(recipe, dataset)
    files = {RECIPE: _recipe_json(recipe)}
    if prepared.card is not None:
        files[DATA_CARD] = prepared.card.to_json()
    if report is not None:
        pictures = {sample.id: sample.image for sample in validation}
        content = PageContent(
            report,
            dataset.labels,
            sources,
            files[RECIPE].decode(),
            pictures,
            prepared.card,
            continued,
        )
        files |= {REPORT: report.to_json(), PAGE: render_page(content)}
    if continued is not None:
        files[ROUND] = continued.to_json()
    return Bundle.from_modules(
        app=recipe.app,
        path=path,
        text_encoder=trained.text_encoder or prepared.text.module,
        tokenizer=prepared.text.tokenizer_json,
        text_preprocessing=prepared.text.preprocessing,
        image_encoder=trained.image_encoder or prepared.image.module,
        image_preprocessing=prepared.image.preprocessing,
        fusion_head=trained.finished,
        task=recipe.task,
        thresholds=trained.thresholds,
        units=trained.units,
        fusion=recipe.fusion_name,
        labels=dataset.labels,
        examples=[item.sample(labelled=False) for item in picked[: recipe.samples.golden]],
        calibration=[item.sample(labelled=False) for item in picked[recipe.samples.golden :]],
        validation=validation,
        sources=sources,
        extra_files=files,
        overwrite=True,
    )


def _validation_items(prepared: Prepared, trained: TrainedFold) -> list[Item]:
    """The held-out items that the bundle keeps."""
    dataset, count = prepared.dataset, prepared.recipe.samples.validation
    if count is None:
        return [dataset.items[index] for index in trained.held_out]
    return pick_items(dataset, trained.held_out, count)


def pick_items(dataset: Dataset, indices: Sequence[int], count: int) -> list[Item]:
    """Pick items that are as different as possible: all labels in turn, one item a group.

    Args:
        dataset: The items.
        indices: Those that may be picked.
        count: How many; fewer come back where there are fewer groups.
    """
    by_label: dict[str, list[Item]] = {
        label: [] for label in sorted({item.label for item in dataset.items})
    }
    if dataset.task == "classification":
        by_label = {label: [] for label in dataset.labels}
    seen: set[str] = set()
    for index in indices:
        item = dataset.items[index]
        if item.group not in seen:
            seen.add(item.group)
            by_label[item.label].append(item)
    # By content, so that neighbours in the data set (and in Unicode) do not come together.
    for items in by_label.values():
        items.sort(key=lambda item: item.sample(labelled=False).content_hash)
    rounds = max(map(len, by_label.values()))
    turns = [
        items[turn] for turn in range(rounds) for items in by_label.values() if turn < len(items)
    ]
    return turns[:count]


def check_target(path: Path) -> None:
    """Refuse before the work, not after it, to put a bundle over something else."""
    if path.exists() and not (path / MANIFEST).is_file() and not _is_empty_folder(path):
        raise RecipeError(f"{path}: is there and is no bundle; choose another folder with --out")


def _recipe_json(recipe: Recipe) -> bytes:
    return recipe.model_dump_json(indent=2, exclude={"out"}, exclude_none=True).encode() + b"\n"


def made_by(recipe: Recipe, target: Path) -> bool:
    """Say whether the folder holds a bundle that this very recipe made."""
    try:
        same = (target / RECIPE).read_bytes() == _recipe_json(recipe)
        return same and not (target / ROUND).exists()  # that one has seen more than the recipe's
    except OSError:
        return False


def _of_the_same_data(recipe: Recipe, folder: Path, target: Path) -> bool:
    """Say whether manifest and pictures are what the bundle was trained on."""
    if not isinstance(recipe.data, ManifestTable):
        return True
    with needs("train"):
        from tritium_builders.data.card import DataCard
        from tritium_builders.data.manifest import hash_manifest
        from tritium_builders.training.own_data import manifest_source
    try:
        card = DataCard.model_validate_json((target / DATA_CARD).read_bytes())
    except (OSError, ValueError):
        return False
    return card.data_sha256 == hash_manifest(manifest_source(recipe.data, folder, recipe.task))


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _sources(recipe: Recipe, dataset: Dataset) -> Sources:
    encoders = (recipe.text_encoder, recipe.image_encoder)
    return Sources(
        weights=", ".join(table.source for table in encoders),
        weights_licence=", ".join(table.licence for table in encoders),
        data=dataset.origin,
        data_licence=dataset.licence,
    )
