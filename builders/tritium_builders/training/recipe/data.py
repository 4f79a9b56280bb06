"""`[data]`: what to train on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from tritium_builders.training.recipe.table import Table


class OpenmojiTable(Table):
    """`[data]` with `source = "openmoji"`: the demo data set, from installed packages."""

    source: Literal["openmoji"]


class OpenclipartTable(Table):
    """`[data]` with `source = "openclipart"`: clip-arts, from Debian's package openclipart-svg."""

    source: Literal["openclipart"]


class ColumnsTable(Table):
    """`[data.columns]`: what the manifest calls its columns."""

    id: str = "id"
    text: str = "text"
    image: str = "image"
    label: str = "label"
    group: str = "group"
    split: str = "split"
    entities: str = "entities"

    @model_validator(mode="after")
    def _each_of_its_own(self) -> ColumnsTable:
        names = list(self.model_dump().values())
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name!r} stands for two columns")
        return self


class ManifestTable(Table):
    """`[data]` with `source = "manifest"`: the user's own texts, pictures and labels."""

    source: Literal["manifest"]
    path: str = Field(min_length=1)
    """A .csv, .jsonl, .ndjson or .parquet file, relative to the recipe."""
    images: str | None = None
    """The folder where the pictures' paths start, relative to the recipe; none of them may lead
    out of it. Default: the manifest's folder."""
    bad_images: Literal["error", "skip"] = "error"
    """Whether a picture that is missing or cannot be decoded ends the training, or is left out,
    counted, and named in the data card."""
    labels: list[str] | None = Field(default=None, min_length=1)
    """In the order of the probabilities. Default: the labels that occur, sorted."""
    values: list[str] | None = Field(default=None, min_length=1)
    """Of a regression: the columns that hold the numbers to predict."""
    separator: str = Field(default="|", min_length=1)
    """Of a multi-label manifest: stands between an item's labels, where they are one text."""
    columns: ColumnsTable = ColumnsTable()
    licence: str = "not stated"
    """Of the data; goes into the bundle."""

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, labels: list[str] | None) -> list[str] | None:
        for label in labels or ():
            if (labels or []).count(label) > 1 or label != label.strip() or not label:
                raise ValueError(f"{label!r} is there twice, is empty, or has blanks around it")
        return labels


DataTable = Annotated[
    OpenmojiTable | OpenclipartTable | ManifestTable, Field(discriminator="source")
]
"""`[data]`: what to train on."""
