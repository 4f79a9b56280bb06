"""Fusion strategies beside each other: one split, the same seeds, features computed once."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer
from torch import nn

from tritium_builders.bundle_schema import FEATURE_TENSORS, FeatureKind
from tritium_builders.data.progress import track
from tritium_builders.errors import RecipeError
from tritium_builders.export import export_fusion_head
from tritium_builders.models import FusionHead
from tritium_builders.models.fusion.base import BOTH
from tritium_builders.reference import FusionModel
from tritium_builders.training.comparison import Comparison, StrategyScores, best_of
from tritium_builders.training.features import Features
from tritium_builders.training.folds import Prepared, TrainedFold, train_fold
from tritium_builders.training.metrics import BINS, accuracy, calibration_error, macro_f1
from tritium_builders.training.recipe import OVER_SEQUENCES, STRATEGIES, Recipe, Strategy
from tritium_builders.training.report import Accuracy, Figure
from tritium_client.contract import ATTENTION_MASK

Single = Literal["text", "image"]
"""A model of one modality."""
FigureKind = TypeVar("FigureKind", bound=Figure)

ALL = "all"
TIMED_ITEMS = 32
TIMED_ROUNDS = 10


def chosen_strategies(recipe: Recipe, names: str) -> tuple[Strategy, ...]:
    """Read what `--compare` was given.

    Args:
        recipe: Its pooling decides what `all` means, and what is refused.
        names: Names with commas between them, or `all`.

    Raises:
        RecipeError: naming a strategy that is not known or does not fit the recipe, and the fix.
    """
    sequences = recipe.fusion.strategy in OVER_SEQUENCES
    fitting = [name for name in STRATEGIES if (name in OVER_SEQUENCES) == sequences]
    if names.strip() == ALL:
        asked: Sequence[str] = fitting
    else:
        asked = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if not asked:
        raise RecipeError(f"--compare: names nothing; use some of {', '.join(fitting)}, or all")
    found = []
    for name in asked:
        strategy = next((known for known in STRATEGIES if known == name), None)
        if strategy is None:
            raise RecipeError(
                f"--compare: there is no strategy {name!r}; use some of {', '.join(fitting)}, "
                "or all"
            )
        _check(recipe, strategy)
        found.append(strategy)
    return tuple(found)


def _check(recipe: Recipe, strategy: Strategy) -> None:
    try:
        recipe.with_strategy(strategy)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise RecipeError(
            f"--compare: {strategy}: {reason}; leave it out or change the recipe"
        ) from error


def compare(prepared: Prepared, strategies: Sequence[Strategy]) -> Comparison:
    """Train every strategy with every seed of the recipe on the recipe's split.

    Args:
        prepared: From `folds.prepare`; its recipe's own strategy does not matter.
        strategies: From `chosen_strategies`.

    Raises:
        ExportError: when a head cannot be exported, and so not be served.
    """
    recipe = prepared.recipe
    names: list[Strategy | Single] = [*strategies, "text", "image"]
    runs = [(name, seed) for name in names for seed in recipe.seeds]
    trained: dict[str, list[TrainedFold]] = {}
    # Encoders that learn have a bar for each epoch.
    shown = runs if recipe.fine_tunes else track(runs, "Comparing strategies", total=len(runs))
    for name, seed in shown:
        own = replace(_train(prepared, name, seed), text_encoder=None, image_encoder=None)
        trained.setdefault(name, []).append(own)
    rows = [_scores(prepared, name, trained[name]) for name in strategies]
    return Comparison(
        app=recipe.app,
        data=prepared.dataset.origin,
        items=len(prepared.dataset.items),
        validation=len(prepared.split(recipe.split.fold).validation),
        held_out=len(trained["text"][0].held_out),
        fold=recipe.split.fold,
        folds=recipe.split.folds,
        seeds=recipe.seeds,
        bins=BINS,
        best=best_of(rows),
        strategies=rows,
        text_model=_held_out(prepared, trained["text"], Accuracy, accuracy, "text"),
        image_model=_held_out(prepared, trained["image"], Accuracy, accuracy, "image"),
    )


def _train(prepared: Prepared, name: Strategy | Single, seed: int) -> TrainedFold:
    fold = prepared.recipe.split.fold
    if name == "text" or name == "image":  # noqa: PLR1714 - mypy follows this, and not `in`
        return train_fold(prepared, fold=fold, seed=seed, kind=name)
    return train_fold(with_strategy(prepared, name), fold=fold, seed=seed)


def with_strategy(prepared: Prepared, strategy: Strategy) -> Prepared:
    """The same data, features and split for another head."""
    changed = replace(prepared, recipe=prepared.recipe.with_strategy(strategy))
    fold = prepared.recipe.split.fold
    changed.keep_split(fold, prepared.split(fold))
    return changed


def _scores(prepared: Prepared, name: Strategy, trained: list[TrainedFold]) -> StrategyScores:
    return StrategyScores(
        strategy=name,
        validation_accuracy=Accuracy.of({one.seed: one.validation_accuracy for one in trained}),
        validation_loss=Figure.of({one.seed: one.validation_loss for one in trained}),
        accuracy=_held_out(prepared, trained, Accuracy, accuracy),
        macro_f1=_held_out(prepared, trained, Figure, macro_f1),
        calibration_error=_held_out(prepared, trained, Figure, calibration_error),
        text_only=_held_out(prepared, trained, Accuracy, accuracy, "text"),
        image_only=_held_out(prepared, trained, Accuracy, accuracy, "image"),
        parameters=sum(parameter.numel() for parameter in trained[0].head.parameters()),
        milliseconds=round(head_milliseconds(prepared, trained[0].head), 4),
    )


def _held_out(
    prepared: Prepared,
    trained: Sequence[TrainedFold],
    kind: type[FigureKind],
    measure: Callable[[Any, Any], float],
    key: str = "text,image",
) -> FigureKind:
    targets = np.asarray(prepared.dataset.targets)
    return kind.of(
        {one.seed: measure(one.probabilities[key], targets[list(one.held_out)]) for one in trained}
    )


def head_milliseconds(prepared: Prepared, head: FusionHead) -> float:
    """How long the exported head takes for one item: what it adds to an answer when served.

    ONNX Runtime on one thread, both modalities, one item at a time without padding; the median
    over held-out items.

    Args:
        prepared: What the head was trained with.
        head: The head, in evaluation mode.

    Raises:
        ExportError: when it cannot be exported.
    """
    import onnxruntime

    features = prepared.features
    text_kind: FeatureKind = "pooled" if features.text_mask is None else "sequence"
    image_kind: FeatureKind = "pooled" if features.image.ndim == 2 else "sequence"
    model = FusionModel(
        text_encoder=nn.Identity(),  # only the head is exported
        image_encoder=nn.Identity(),
        fusion_head=head,
        tokenizer=Tokenizer.from_buffer(prepared.text.tokenizer_json),
        text=prepared.text.preprocessing,
        image=prepared.image.preprocessing,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.onnx"
        export_fusion_head(
            model,
            BOTH,
            (text_kind, features.text.shape[-1]),
            (image_kind, tuple(features.image.shape[1:])),
            path,
        )
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    wanted = {one.name for one in session.get_inputs()}
    held_out = prepared.split(prepared.recipe.split.fold).held_out[:TIMED_ITEMS]
    names = (FEATURE_TENSORS["text", text_kind], FEATURE_TENSORS["image", image_kind])
    requests = [_request(features, int(index), names, wanted) for index in held_out]
    seconds = []
    for request in [*requests, *(requests * TIMED_ROUNDS)]:
        start = time.perf_counter()
        session.run(None, request)
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds[len(requests) :])  # the first round warms up


def _request(
    features: Features, index: int, names: tuple[str, str], wanted: set[str]
) -> dict[str, Any]:
    one = features.select(torch.tensor([index]))
    text, mask = one.text, one.text_mask
    if mask is not None:
        length = max(2, int(mask.sum()))  # features are padded on the right
        text, mask = text[:, :length], mask[:, :length]
    request = {names[0]: text.numpy(), names[1]: one.image.numpy()}
    if mask is not None and ATTENTION_MASK in wanted:
        request[ATTENTION_MASK] = mask.numpy()
    return request
