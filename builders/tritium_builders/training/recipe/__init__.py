"""Recipes: TOML files that say what to train, from what, and how.

A recipe is read without PyTorch.
"""

from __future__ import annotations

from tritium_builders.training.recipe.data import (
    ColumnsTable,
    DataTable,
    ManifestTable,
    OpenclipartTable,
    OpenmojiTable,
)
from tritium_builders.training.recipe.ensemble import EnsembleTable
from tritium_builders.training.recipe.fine_tuning import (
    AugmentationTable,
    EncoderTable,
    LoaderTable,
    LoraTable,
)
from tritium_builders.training.recipe.fitting import OptimiserTable, SamplesTable, SplitTable
from tritium_builders.training.recipe.imbalance import ImbalanceStrategy, ImbalanceTable
from tritium_builders.training.recipe.model import (
    OVER_SEQUENCES,
    STRATEGIES,
    WITH_HEADS,
    FusionTable,
    ImageEncoderTable,
    Strategy,
    TextEncoderTable,
)
from tritium_builders.training.recipe.pretraining import (
    ContrastiveTable,
    MaskingTable,
    PretrainingOptimiserTable,
    PretrainingRecipe,
    load_pretraining_recipe,
)
from tritium_builders.training.recipe.recipe import Recipe, load_recipe

__all__ = [
    "OVER_SEQUENCES",
    "STRATEGIES",
    "WITH_HEADS",
    "AugmentationTable",
    "ColumnsTable",
    "ContrastiveTable",
    "DataTable",
    "EncoderTable",
    "EnsembleTable",
    "FusionTable",
    "ImageEncoderTable",
    "ImbalanceStrategy",
    "ImbalanceTable",
    "LoaderTable",
    "LoraTable",
    "ManifestTable",
    "MaskingTable",
    "OpenclipartTable",
    "OpenmojiTable",
    "OptimiserTable",
    "PretrainingOptimiserTable",
    "PretrainingRecipe",
    "Recipe",
    "SamplesTable",
    "SplitTable",
    "Strategy",
    "TextEncoderTable",
    "load_pretraining_recipe",
    "load_recipe",
]
