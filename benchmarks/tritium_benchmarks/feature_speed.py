"""What a data set's features cost by PyTorch and by OpenVINO, its graphs' export included.

    python -m tritium_benchmarks.feature_speed recipes/openmoji.toml

Prints processor seconds of this process, which say the same on a machine that others use, too. The
encoders' features go to a cache folder of their own, which is removed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tritium_builders.training import features
from tritium_builders.training.own_data import load_data, load_encoders
from tritium_builders.training.recipe import load_recipe


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute the features of a recipe's data twice, and print both times."""
    parser = argparse.ArgumentParser(description="Features by PyTorch and by OpenVINO.")
    parser.add_argument("recipe", type=Path)
    given = parser.parse_args(arguments)
    recipe = load_recipe(given.recipe)
    text, image = load_encoders(recipe)
    dataset = load_data(recipe, given.recipe.parent, text, image).dataset
    for module in (text.module, image.module):  # loaded now, so that no time below is for that
        module.eval()
    many = features.MANY
    for name, least in (("PyTorch", len(dataset.items) + 1), ("OpenVINO", many)):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = folder
            features.MANY = least
            start = time.process_time()
            features.compute_features(dataset, text, image)
            seconds = time.process_time() - start
        print(f"{name}: {seconds:.0f} s for {len(dataset.items)} items")  # noqa: T201


if __name__ == "__main__":
    main()
