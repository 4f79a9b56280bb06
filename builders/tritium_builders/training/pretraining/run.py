"""`pretrain`: one pretraining recipe in, adapted encoders out."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from tritium_builders.bundle import staged_folder
from tritium_builders.data import Dataset
from tritium_builders.durable import flush
from tritium_builders.errors import RecipeError
from tritium_builders.models import LoadedImageEncoder, LoadedTextEncoder
from tritium_builders.training.features import compute_features
from tritium_builders.training.fit import reproducible
from tritium_builders.training.own_data import load_data, load_encoders, make_split
from tritium_builders.training.pretraining.contrastive import Contrastive
from tritium_builders.training.pretraining.folders import write_seen
from tritium_builders.training.pretraining.loop import Pretrained, pretrain_task
from tritium_builders.training.pretraining.masked_language import MaskedLanguage
from tritium_builders.training.pretraining.objectives import PretrainingTask
from tritium_builders.training.pretraining.report import REPORT, PretrainingReport
from tritium_builders.training.recipe import (
    ImageEncoderTable,
    PretrainingRecipe,
    TextEncoderTable,
    load_pretraining_recipe,
)
from tritium_builders.training.splits import Split


def pretrain(
    recipe_path: str | os.PathLike[str], *, out: str | os.PathLike[str] | None = None
) -> tuple[Path, PretrainingReport]:
    """Adapt encoders as a recipe says, and write them; the same recipe gives the same weights.

    What the recipe's split holds out is not looked at, labels neither. Encoders that are already
    there are replaced, at the very end and in one step.

    Args:
        recipe_path: A pretraining recipe.
        out: The folder. Default: what the recipe says.

    Returns:
        The folder, and how it went.

    Raises:
        RecipeError: when the recipe, or something that it names, cannot be used, or nothing can
            be written there.
        TrainingError: when the loss is no number any more.
        MissingExtraError: when a package is not installed.
    """
    recipe = load_pretraining_recipe(Path(recipe_path))
    target = Path(out) if out is not None else Path(recipe.out)
    _check_target(target)
    training = recipe.training
    text, image = load_encoders(training)
    data = load_data(training, Path(recipe_path).parent, text, image)
    split = data.split or make_split(training, data.dataset, recipe.split.fold)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with reproducible(recipe.seed, threads=torch.get_num_threads(), device=device):
        task = make_task(recipe, data.dataset, text, image)
        task.modules().to(device)
        done = pretrain_task(
            task, torch.from_numpy(split.train), torch.from_numpy(split.validation),
            recipe.optimiser,
        )  # fmt: skip
        task.modules().to("cpu")
    report = _report(recipe, data.dataset, split, done)
    _write(task, data.dataset, split, report, target)
    return target, report


def make_task(
    recipe: PretrainingRecipe, dataset: Dataset, text: LoadedTextEncoder, image: LoadedImageEncoder
) -> PretrainingTask:
    """The recipe's objective over a data set.

    Raises:
        RecipeError: when the encoders have no such task, or an item cannot be read.
    """
    if recipe.objective == "masked_language":
        return MaskedLanguage(
            recipe.text_encoder.source,
            text,
            [item.text for item in dataset.items],
            probability=recipe.masking.probability,
            batch_size=recipe.optimiser.batch_size,
        )
    return Contrastive(
        text,
        image,
        dataset,
        compute_features(dataset, text, image),
        recipe.contrastive,
        source=recipe.text_encoder.source,
        batch_size=recipe.optimiser.batch_size,
    )


def _report(
    recipe: PretrainingRecipe, dataset: Dataset, split: Split, done: Pretrained
) -> PretrainingReport:
    adapted = ["text"] if recipe.objective == "masked_language" else recipe.contrastive.train
    tables: dict[str, TextEncoderTable | ImageEncoderTable] = {
        "text": recipe.text_encoder,
        "image": recipe.image_encoder,
    }
    return PretrainingReport(
        objective=recipe.objective,
        adapted={name: tables[name].source for name in adapted},
        licences={name: tables[name].licence for name in adapted},
        data=dataset.origin,
        data_licence=dataset.licence,
        items=len(split.train),
        validation=len(split.validation),
        held_out=len(split.held_out),
        fold=None if dataset.has_sides else recipe.split.fold,
        seed=recipe.seed,
        best_epoch=done.best_epoch,
        losses=[round(loss, 6) for loss in done.losses],
        loss_before=round(done.before.loss, 6),
        figures_before={name: round(value, 6) for name, value in done.before.figures.items()},
        figures_after={name: round(value, 6) for name, value in done.after.figures.items()},
    )


def _check_target(path: Path) -> None:
    """Refuse before the work, not after it, to put encoders over something else."""
    ours = (path / REPORT).is_file() or (path.is_dir() and not any(path.iterdir()))
    if path.exists() and not ours:
        raise RecipeError(
            f"{path}: is there and is no pretrained encoder; choose another folder with --out"
        )


def _write(
    task: PretrainingTask, dataset: Dataset, split: Split, report: PretrainingReport, target: Path
) -> None:
    try:
        with staged_folder(target) as folder:
            for written in task.write(folder):
                write_seen((dataset.items[index] for index in split.train), written)
            (folder / REPORT).write_bytes(report.to_json())
            flush(folder)
    except OSError as error:
        raise RecipeError(
            f"{target}: cannot be written ({error.strerror or error}), and what was there is as it "
            "was; make room, or choose another folder with --out"
        ) from error
