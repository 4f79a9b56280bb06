"""`train_next`: a recipe, a bundle and new data in, the next bundle out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tritium_builders.bundle import Bundle
from tritium_builders.data import Dataset
from tritium_builders.data.card import DataCard, Previous
from tritium_builders.data.manifest import LoadedManifest
from tritium_builders.errors import RecipeError, needs
from tritium_builders.models import LoadedTextEncoder
from tritium_builders.training.distributed import processes
from tritium_builders.training.features import Features, compute_features
from tritium_builders.training.folds import Prepared, TrainedFold
from tritium_builders.training.network import logits_of
from tritium_builders.training.own_data import (
    RecipeData,
    describe,
    load_data,
    load_encoders,
    make_split,
)
from tritium_builders.training.recipe import Recipe, load_recipe
from tritium_builders.training.rounds.additions import (
    Placed,
    picture_hash,
    place,
    read_additions,
    require_any,
)
from tritium_builders.training.rounds.record import AddedFile, Compared, HeldOut, RoundRecord
from tritium_builders.training.rounds.start import encoders_of, make_start
from tritium_builders.training.run import check_target, ship, train_seeds
from tritium_builders.training.splits import Indices, Split


@dataclass(frozen=True)
class _Round:
    """Old and new items together."""

    dataset: Dataset
    split: Split
    old: int
    """How many items are the recipe's own; they come first."""
    files: list[LoadedManifest]
    placed: Placed


def train_next(
    recipe_path: str | os.PathLike[str],
    previous: str | os.PathLike[str],
    data: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str] | None = None,
) -> Bundle:
    """Train a bundle's head on, with the recipe's data and new data, and write the next bundle.

    What the recipe holds out stays held out; new items that are like it are left out. The new
    bundle holds what `train` writes, and round.json.

    Args:
        recipe_path: The recipe that the bundle was trained with; epochs, learning rate and the
            like may have changed.
        previous: The bundle's folder.
        data: Manifests of new items, those of earlier rounds first.
        out: The new bundle's folder. Default: what the recipe says, else `bundles/<app>`.

    Raises:
        RecipeError: when the recipe, the bundle or the data do not fit each other.
        MissingExtraError: when a package is not installed.
        BundleError, ExportError: when a bundle cannot be used, or not be served.
    """
    recipe, folder = load_recipe(Path(recipe_path)), Path(recipe_path).parent
    target = Path(out) if out is not None else recipe.bundle_folder
    check_target(target)
    bundle = Bundle.load(previous)
    if target.resolve() == bundle.folder.resolve():
        raise RecipeError(f"{target}: would be in the place of the bundle it continues; give --out")
    start, old_head = make_start(bundle, recipe)
    text, image = encoders_of(bundle, recipe, *load_encoders(recipe))
    with processes().first_goes_ahead():
        own = load_data(recipe, folder, text, image)
        spec = image.preprocessing.servable_spec()
        joined = _join(recipe, own, bundle, [Path(path) for path in data], spec)
        features = compute_features(joined.dataset, text, image)
    _check_sides(joined, bundle)
    card = _card(recipe, own, joined, bundle, text)
    prepared = Prepared(recipe, joined.dataset, text, image, features, card, start)
    prepared.keep_split(recipe.split.fold, joined.split)
    shipped, report = train_seeds(prepared)
    record = _record(bundle, old_head, joined, features, shipped)
    return ship(prepared, shipped, target, report, record)


def _join(
    recipe: Recipe, own: RecipeData, bundle: Bundle, paths: Sequence[Path], spec: dict[str, Any]
) -> _Round:
    old = own.dataset
    split = own.split or make_split(recipe, old, recipe.split.fold)
    known = list(dict.fromkeys((*bundle.manifest.labels, *old.labels)))
    files = read_additions(paths, recipe, known, spec)
    placed = place(
        old, split, [one.dataset.items for one in files], recipe.split,
        [(sample.text, sample.image) for sample in bundle.validation],
    )  # fmt: skip
    require_any(placed, files)
    items = placed.items
    if old.has_sides:
        items = tuple(
            replace(one, side=side) for one, side in zip(items, placed.sides, strict=True)
        )
    labels = _labels(known, old, items, bundle)
    dataset = replace(
        old,
        items=(*old.items, *items),
        origin="; ".join((old.origin, *(one.dataset.origin for one in files))),
        label_order=labels,
    )
    at = len(old.items) + np.arange(len(items), dtype=np.int64)
    sides = np.array(placed.sides)
    both = Split(
        np.concatenate([split.train, at[sides == "train"]]),
        np.concatenate([split.validation, at[sides == "validation"]]),
        np.concatenate([split.held_out, at[sides == "test"]]),
    )
    return _Round(dataset, both, len(old.items), files, placed)


def _labels(
    known: Sequence[str], old: Dataset, items: Sequence[Any], bundle: Bundle
) -> tuple[str, ...]:
    """The bundle's labels in its order, then the others."""
    occurring = {item.label for item in (*old.items, *items)}
    lost = [label for label in bundle.manifest.labels if label not in occurring]
    if lost:
        raise RecipeError(
            f"{bundle.folder}: its label {lost[0]!r} has no item any more; give the data of "
            "earlier rounds with --data as well, or train without --from"
        )
    return (*known, *sorted(occurring - set(known)))


def _check_sides(joined: _Round, bundle: Bundle) -> None:
    """Refuse data in which a held-out item of the bundle would be trained on, or the reverse.

    Raises:
        RecipeError: naming the item.
    """
    held_out = {(one.text, _digest(one.image)) for one in bundle.validation}
    trained = {(one.text, _digest(one.image)) for one in (*bundle.golden, *bundle.calibration)}
    sides = set(joined.split.held_out.tolist())
    for index, item in enumerate(joined.dataset.items):
        pair = (item.text, picture_hash(item))
        moved = pair in trained if index in sides else pair in held_out
        if moved:
            raise RecipeError(
                f"{bundle.folder}: item {item.id} was on another side of the split when it was "
                "trained; leave the recipe's data and [split] as they were, and give new items "
                "with --data"
            )


def _digest(image: bytes) -> str:
    import hashlib

    return hashlib.sha256(image).hexdigest()


def _card(
    recipe: Recipe, own: RecipeData, joined: _Round, bundle: Bundle, text: LoadedTextEncoder
) -> DataCard | None:
    """The card of all items, where the recipe's own have one."""
    if own.loaded is None:
        return None
    every = [own.loaded, *joined.files]
    kept = {item.id for item in joined.dataset.items}
    facts = [
        fact
        for one in every
        for item, fact in zip(one.dataset.items, one.facts, strict=True)
        if item.id in kept
    ]
    digests = "\0".join(one.data_hash for one in every)
    loaded = replace(
        own.loaded,
        dataset=joined.dataset,
        facts=tuple(facts),
        skipped=tuple(skipped for one in every for skipped in one.skipped),
        data_hash=_digest(digests.encode()),
    )
    card = describe(recipe, loaded, joined.split, text)
    return card.model_copy(update={"previous": _previous(bundle)})


def _previous(bundle: Bundle) -> Previous:
    return Previous(bundle=str(bundle.folder), hash=bundle.hash, app=bundle.manifest.app)


@torch.inference_mode()
def _record(
    bundle: Bundle, old_head: nn.Module, joined: _Round, features: Features, shipped: TrainedFold
) -> RoundRecord:
    held_out = joined.split.held_out
    own: Any = old_head
    logits = logits_of(own, features.select(torch.from_numpy(held_out)), ("text", "image"))
    before = logits.argmax(-1).numpy()  # its labels are the first ones
    now = shipped.probabilities["text,image"].argmax(-1)
    targets = np.asarray(joined.dataset.targets)[held_out]
    is_old = held_out < joined.old
    parts: list[tuple[HeldOut, Indices]] = [
        ("held out before", np.flatnonzero(is_old)),
        ("new", np.flatnonzero(~is_old)),
        ("all", np.arange(len(held_out))),
    ]
    return RoundRecord(
        previous=_previous(bundle),
        files=[
            AddedFile(
                path=one.dataset.name,
                sha256=one.data_hash,
                items=len(one.dataset.items),
                unlabelled=one.unlabelled,
                skipped=len(one.skipped),
            )
            for one in joined.files
        ],
        added={side: joined.placed.sides.count(side) for side in ("train", "validation", "test")},
        left_out=dict(Counter(joined.placed.left_out)),
        new_labels=list(joined.dataset.labels[len(bundle.manifest.labels) :]),
        compared=[
            _compare(name, targets[part], before[part], now[part])
            for name, part in parts
            if len(part)
        ],
    )


def _compare(name: HeldOut, targets: Any, before: Any, now: Any) -> Compared:
    with needs("train"):
        from sklearn.metrics import f1_score

    labels: Any = sorted(set(targets.tolist()))

    def macro_f1(answers: Any) -> float:
        score = f1_score(targets, answers, labels=labels, average="macro", zero_division=0.0)
        return round(float(score), 6)

    return Compared(
        items=name,
        count=len(targets),
        previous_accuracy=round(float(np.mean(before == targets)), 6),
        accuracy=round(float(np.mean(now == targets)), 6),
        previous_macro_f1=macro_f1(before),
        macro_f1=macro_f1(now),
    )
