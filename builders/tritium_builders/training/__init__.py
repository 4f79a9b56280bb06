"""From a recipe to a bundle: a fusion head is trained, and the encoders that the recipe says.

    recipe -> folds.prepare (data, encoders, features.py) -> folds.train_fold (splits.py)
           -> report.py -> run.train writes the bundle

    folds.train_fold: network.py (head and encoders that learn: trainable.py), inputs.py (what it
    is fed: features, or tokens and pixels with augmentation.py), fit.py (the loop) with
    optimisation.py, objective.py, checkpoints.py and distributed.py

Names are imported when they are used: the command line shows its help without PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tritium_builders.training.recipe import Recipe, load_recipe
    from tritium_builders.training.run import train

__all__ = ["Recipe", "load_recipe", "train"]

_HOMES = {"Recipe": "recipe", "load_recipe": "recipe", "train": "run"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
