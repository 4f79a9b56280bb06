"""From a recipe's `[data]` to a checked data set, its split and its card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import Tokenizer

from tritium_builders.data.card import DataCard, make_card
from tritium_builders.data.dataset import Dataset, Side
from tritium_builders.data.manifest import LoadedManifest, ManifestSource, load_manifest
from tritium_builders.data.openclipart import load_openclipart
from tritium_builders.data.openmoji import load_openmoji
from tritium_builders.data.pictures import facts_of
from tritium_builders.data.progress import track
from tritium_builders.data.targets import TargetColumns
from tritium_builders.errors import RecipeError
from tritium_builders.models import LoadedImageEncoder, LoadedTextEncoder
from tritium_builders.training.known_encoders import known_image_encoder, known_text_encoder
from tritium_builders.training.pretraining.folders import refuse_seen
from tritium_builders.training.recipe import ManifestTable, Recipe
from tritium_builders.training.splits import Split, split_dataset
from tritium_client.contract import Task

REDUCING_GAP = 2.0
"""Pillow's own choice for thumbnails: the result is hardly to be told from the slow way's."""
TEXTS_AT_ONCE = 1024


@dataclass(frozen=True)
class RecipeData:
    """What a recipe trains on."""

    dataset: Dataset
    split: Split | None
    """Of the recipe's fold, where the card needed it."""
    card: DataCard | None
    loaded: LoadedManifest | None = None
    """What the card was made of."""


def load_encoders(recipe: Recipe) -> tuple[LoadedTextEncoder, LoadedImageEncoder]:
    """Load both encoders, with the preprocessing that the recipe asks for.

    Raises:
        RecipeError: when an encoder cannot be used.
        MissingExtraError: when a package is not installed.
    """
    text = known_text_encoder(recipe.text_encoder.source, recipe.text_encoder.pooling)
    gap = REDUCING_GAP if recipe.image_encoder.scaled_decode else None
    how = {"reducing_gap": gap, "resizer": recipe.image_encoder.resizer}
    table = recipe.image_encoder
    return text, known_image_encoder(table.source, table.pooling, how)


def load_data(
    recipe: Recipe,
    folder: Path,
    text: LoadedTextEncoder,
    image: LoadedImageEncoder,
    *,
    every_fold: bool = False,
) -> RecipeData:
    """Load and check what a recipe trains on.

    Args:
        recipe: The recipe.
        folder: Where it lies; paths in it start there.
        text: Its text encoder, for lengths in tokens.
        image: Its image encoder, whose decoder tries the pictures.
        every_fold: Whether each fold is to be held out in turn.

    Raises:
        RecipeError: with file, line, column and fix of the first ten problems.
        MissingExtraError: when a package is not installed.
    """
    table = recipe.data
    if not isinstance(table, ManifestTable):
        load = load_openmoji if table.source == "openmoji" else load_openclipart
        packaged = _for_task(load(), recipe)
        facts = tuple(facts_of(item.read_image()) for item in packaged.items)
        loaded = LoadedManifest(packaged, facts, (), packaged.content_hash)
        split = make_split(recipe, packaged, recipe.split.fold)
        return RecipeData(packaged, split, describe(recipe, loaded, split, text), loaded)
    least = recipe.split.folds + recipe.split.validation_folds
    loaded = load_manifest(
        manifest_source(table, folder, recipe.task),
        image.preprocessing.servable_spec(),
        least_groups=least,
    )
    dataset = loaded.dataset
    if every_fold and dataset.has_sides:
        raise RecipeError(
            f"{dataset.name}: gives splits, so there are no folds to hold out in turn; train "
            "without --cross-validate, or take the split column away"
        )
    split = make_split(recipe, dataset, recipe.split.fold)
    return RecipeData(dataset, split, describe(recipe, loaded, split, text), loaded)


def _for_task(dataset: Dataset, recipe: Recipe) -> Dataset:
    """Labelled pairs as the recipe's task takes them: who embeds needs no labels."""
    if recipe.task == "classification":
        return dataset
    return replace(dataset, task=recipe.task, label_order=())


def manifest_source(
    table: ManifestTable, folder: Path, task: Task = "classification"
) -> ManifestSource:
    """Find the files that `[data]` names.

    Args:
        table: The recipe's table.
        folder: Where the recipe lies.
        task: The recipe's.
    """
    path = folder / table.path
    return ManifestSource(
        path=path,
        images=path.parent if table.images is None else folder / table.images,
        name=table.path,
        skip_bad_images=table.bad_images == "skip",
        labels=tuple(table.labels or ()),
        columns=table.columns.model_dump(),
        licence=table.licence,
        targets=TargetColumns(task, tuple(table.values or ()), table.separator),
    )


def make_split(recipe: Recipe, dataset: Dataset, fold: int) -> Split:
    """The three sides: the data's own, or those of one fold.

    Raises:
        RecipeError: when a label has too few groups to be in every fold, or an encoder was adapted
            to what is held out.
        MissingExtraError: when scikit-learn is not installed.
    """
    table = recipe.split
    if dataset.has_sides:
        split = Split.given(dataset)
    else:
        split = split_dataset(
            dataset,
            fold=fold,
            folds=table.folds,
            validation_folds=table.validation_folds,
            seed=table.seed,
        )
    sources = (recipe.text_encoder.source, recipe.image_encoder.source)
    refuse_seen(sources, dataset, split.held_out)
    return split


def describe(
    recipe: Recipe, loaded: LoadedManifest, split: Split, text: LoadedTextEncoder
) -> DataCard:
    """Make the data card.

    Args:
        recipe: The recipe.
        loaded: Its data.
        split: Who is on which side.
        text: The text encoder, for lengths in tokens.
    """
    dataset = loaded.dataset
    sides: list[Side] = ["train"] * len(dataset.items)
    for index in split.validation.tolist():
        sides[index] = "validation"
    for index in split.held_out.tolist():
        sides[index] = "test"
    notes = []
    if dataset.has_sides and recipe.split.model_fields_set:
        notes.append("the recipe's [split] is not used: the manifest gives splits")
    return make_card(
        loaded,
        sides=sides,
        tokens=_count_tokens([item.text for item in dataset.items], text.tokenizer_json),
        max_tokens=text.preprocessing.max_length,
        notes=notes,
    )


def _count_tokens(texts: Sequence[str], tokenizer_json: bytes) -> list[int]:
    tokenizer = Tokenizer.from_buffer(tokenizer_json)
    batches = [texts[at : at + TEXTS_AT_ONCE] for at in range(0, len(texts), TEXTS_AT_ONCE)]
    return [
        len(encoding.ids)
        for batch in track(batches, "Counting tokens", total=len(batches))
        for encoding in tokenizer.encode_batch(list(batch))
    ]
