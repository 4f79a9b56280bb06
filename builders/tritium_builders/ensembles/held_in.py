"""Labelled items that weights may be chosen by: never those that are held out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tritium_builders.bundle import Bundle
from tritium_builders.data.dataset import Item
from tritium_builders.data.manifest import ManifestSource, load_manifest
from tritium_builders.errors import RecipeError, needs


def items_to_tune_on(path: Path, bundles: Sequence[Bundle]) -> list[Item]:
    """Read the items that `--tune-on` names.

    Args:
        path: A recipe, of which the validation side is taken; or a manifest, of which all items
            are taken, or those in `validation` where it has splits.
        bundles: Whose labels they have, and whose held-out samples they must not be.

    Raises:
        RecipeError: when it cannot be read, or what it holds must not choose anything.
        MissingExtraError: when scikit-learn is not installed (a recipe), or pyarrow (Parquet).
    """
    items = _of_recipe(path) if path.suffix == ".toml" else _of_manifest(path, bundles[0])
    labels = set(bundles[0].manifest.labels)
    held_out = {
        sample.content_hash: bundle.folder for bundle in bundles for sample in bundle.validation
    }
    for item in items:
        if item.label not in labels:
            raise RecipeError(
                f"{path}: item {item.id}: {item.label!r} is not a label of {bundles[0].folder}; "
                "correct or remove it"
            )
        folder = held_out.get(item.sample(labelled=False).content_hash)
        if folder is not None:
            raise RecipeError(
                f"{path}: item {item.id} is held out in {folder}, and held-out items choose "
                "nothing; remove it, or name the recipe that the bundles were trained with"
            )
    if len({item.label for item in items}) < 2:
        raise RecipeError(f"{path}: holds items of one label or none; weights need two and more")
    return items


def _of_recipe(path: Path) -> list[Item]:
    with needs("train"):
        from tritium_builders.training.own_data import load_data, load_encoders, make_split
    from tritium_builders.training.recipe import load_recipe

    recipe = load_recipe(path)
    data = load_data(recipe, path.parent, *load_encoders(recipe))
    split = data.split or make_split(recipe, data.dataset, recipe.split.fold)
    return [data.dataset.items[index] for index in split.validation.tolist()]


def _of_manifest(path: Path, bundle: Bundle) -> list[Item]:
    source = ManifestSource(path=path, images=path.parent, name=str(path))
    loaded = load_manifest(source, bundle.manifest.image.servable_spec(), least_groups=0)
    items = loaded.dataset.items
    if loaded.dataset.has_sides:
        return [item for item in items if item.side == "validation"]
    return list(items)
