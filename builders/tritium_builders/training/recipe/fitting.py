"""`[optimiser]`, `[split]`, `[samples]`: how it is trained, and on which items."""

from __future__ import annotations

from pydantic import Field, model_validator

from tritium_builders.training.recipe.table import Table


class OptimiserTable(Table):
    """`[optimiser]`: AdamW (Loshchilov and Hutter 2019) with early stopping."""

    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    batch_size: int = Field(default=64, ge=2)
    max_epochs: int = Field(default=100, ge=1)
    patience: int = Field(default=10, ge=1)
    """Epochs without a lower validation loss before training stops."""


class SplitTable(Table):
    """`[split]`: grouped, stratified folds; near-duplicates stay on one side."""

    folds: int = Field(default=5, ge=2)
    fold: int = Field(default=0, ge=0)
    """The fold that is held out for the bundle's accuracy figures, counted from 0."""
    seed: int = Field(default=0, ge=0)
    """Decides which items are in which fold."""
    validation_folds: int = Field(default=8, ge=2)
    """Early stopping watches one n-th of the training side, which is then not trained on."""

    @model_validator(mode="after")
    def _fold_exists(self) -> SplitTable:
        if self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} does not exist; there are {self.folds}, from 0")
        return self


class SamplesTable(Table):
    """`[samples]`: what the bundle keeps: of the training side, and of what was held out."""

    golden: int = Field(default=16, ge=1, le=16)
    """Every build and every start of the server is checked with these."""
    calibration: int = Field(default=64, ge=0)
    validation: int | None = Field(default=None, ge=1)
    """At most so many of the held-out items, labels in turn and one a group. Default: all of them;
    writing the bundle holds their pictures in memory."""
