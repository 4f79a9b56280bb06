"""Pretraining recipes: which encoder is adapted to which texts and pictures, without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from tritium_builders.training.recipe.data import DataTable
from tritium_builders.training.recipe.fitting import SplitTable
from tritium_builders.training.recipe.model import ImageEncoderTable, TextEncoderTable
from tritium_builders.training.recipe.recipe import Recipe, read_recipe
from tritium_builders.training.recipe.table import Table
from tritium_client.contract import Modality, Task

PretrainingObjective = Literal["masked_language", "contrastive"]


class MaskingTable(Table):
    """`[masking]`: masked language modelling, of the text encoder."""

    probability: float = Field(default=0.15, gt=0, lt=1)
    """Of a token to be guessed from the others. Source: Devlin et al. 2019 (BERT), section 3.1."""


class ContrastiveTable(Table):
    """`[contrastive]`: texts and their own pictures are brought together, others kept apart."""

    train: list[Modality] = Field(default=["text"], min_length=1)
    """Whose encoder is adapted. One that is not stays frozen, and its features are computed once.
    Source: Zhai et al. 2022, "LiT: Zero-Shot Transfer with Locked-image text Tuning"."""
    width: int = Field(default=256, ge=1, le=8192)
    """Of the space in which both meet. Its projections are not kept."""
    temperature: float = Field(default=0.07, gt=0)
    """Where the learned temperature starts. Source: Radford et al. 2021 (CLIP), section 2.5."""

    @field_validator("train")
    @classmethod
    def _once_each(cls, train: list[Modality]) -> list[Modality]:
        if len(set(train)) < len(train):
            raise ValueError(f"{train[0]!r} is there twice")
        return train


class PretrainingOptimiserTable(Table):
    """`[optimiser]`: AdamW with warm-up, cosine decay and early stopping."""

    learning_rate: float = Field(default=2e-5, gt=0)
    """Of encoders."""
    head_learning_rate: float = Field(default=1e-3, gt=0)
    """Of what is put on top of them and thrown away afterwards."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Never of norms and biases."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """The share of all steps of `max_epochs` in which learning rates rise from 0."""
    gradient_clip: float = Field(default=1.0, gt=0)
    """Longest gradient, as a norm over all weights."""
    batch_size: int = Field(default=64, ge=2)
    """contrastive: an item is told apart from so many others, less one."""
    max_epochs: int = Field(default=20, ge=1)
    patience: int = Field(default=3, ge=1)
    """Epochs without a lower validation loss before training stops."""


class PretrainingRecipe(Table):
    """The content of a pretraining recipe.

    `[data]`, both encoders and `[split]` are those of the training recipe that will use what comes
    out, so that what is held out there is not seen here.
    """

    schema_version: Literal[1] = 1
    objective: PretrainingObjective
    out: str = Field(min_length=1)
    """The folder that is written, relative to where the command runs."""
    seed: int = Field(default=0, ge=0)
    """Of masks, batches and dropout."""
    task: Task = "classification"
    """The training recipe's: how its data are read and split. Data without labels: `embedding`."""
    data: DataTable
    text_encoder: TextEncoderTable
    image_encoder: ImageEncoderTable
    masking: MaskingTable = MaskingTable()
    contrastive: ContrastiveTable = ContrastiveTable()
    optimiser: PretrainingOptimiserTable = PretrainingOptimiserTable()
    split: SplitTable = SplitTable()

    @model_validator(mode="after")
    def _settings_are_used(self) -> PretrainingRecipe:
        other = "contrastive" if self.objective == "masked_language" else "masking"
        if other in self.model_fields_set:
            raise ValueError(f"[{other}] is not for objective {self.objective!r}; remove it")
        if "none" in (self.text_encoder.pooling, self.image_encoder.pooling):
            raise ValueError(
                'pooling = "none" is chosen by the training recipe; here say how one vector is made'
            )
        if self.task == "tagging" and self.objective == "contrastive":
            raise ValueError(
                'objective "contrastive" adapts one vector for a text, and task "tagging" has one '
                'for each word; use "masked_language"'
            )
        return self

    @property
    def training(self) -> Recipe:
        """A training recipe with the same data, encoders and split."""
        text = self.text_encoder
        if self.task == "tagging":
            text = text.model_copy(update={"pooling": "none"})
        return Recipe(
            app="pretraining",
            task=self.task,
            data=self.data,
            text_encoder=text,
            image_encoder=self.image_encoder,
            split=self.split,
        )


def load_pretraining_recipe(path: Path) -> PretrainingRecipe:
    """Read a pretraining recipe.

    Raises:
        RecipeError: naming the file, the field and the fix, one line for each problem.
    """
    return read_recipe(path, PretrainingRecipe)
