"""The schema of bundle.toml, the hand-over from training to building."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tritium_builders.preprocessing import ImagePreprocessing, TextPreprocessing
from tritium_builders.tasks import ENTRY_POINTS
from tritium_client.contract import (
    IMAGE_FEATURES,
    IMAGE_SEQUENCE,
    TEXT_FEATURES,
    TEXT_SEQUENCE,
    TEXT_WORDS,
    VERB_OF,
    Modality,
    Role,
    Task,
    Verb,
    is_app_name,
)

SCHEMA_VERSION: Literal[1] = 1
EXPORTED = "onnx"
"""The architecture of a component whose classes we do not know: its graph is kept instead."""


FeatureKind = Literal["pooled", "sequence", "words"]
"""`pooled`: [D] for an item; `sequence`: [tokens or patches, D]; `words`, of a text that is tagged:
[words, D]."""

FEATURE_TENSORS: dict[tuple[Modality, FeatureKind], str] = {
    ("text", "pooled"): TEXT_FEATURES,
    ("text", "sequence"): TEXT_SEQUENCE,
    ("text", "words"): TEXT_WORDS,
    ("image", "pooled"): IMAGE_FEATURES,
    ("image", "sequence"): IMAGE_SEQUENCE,
}


LEAST_LABELS: dict[Task, int] = {
    "classification": 2,
    "multilabel": 1,
    "tagging": 2,
    "regression": 1,
    "embedding": 0,
}


def head_role(given: Sequence[Modality]) -> Role:
    """The role of the fusion head's graph for a set of modalities."""
    if len(given) > 1:
        return "fusion_head"
    return "fusion_head_text" if given[0] == "text" else "fusion_head_image"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sources(_Table):
    """Where weights and data come from, and under which licence they may be used."""

    weights: str = "not stated"
    weights_licence: str = "not stated"
    data: str = "not stated"
    data_licence: str = "not stated"


class EncoderEntry(_Table):
    """One encoder of the bundle."""

    architecture: str
    """A name of `models.KNOWN_MODULES` (safetensors are kept), or `onnx` (the graph is kept)."""
    features: FeatureKind
    shape: list[int]
    """Features of one item: [D]; [tokens or words, D] with the first = -1; or [patches, D]."""


class FusionHeadEntry(_Table):
    """The fusion head of the bundle."""

    architecture: str
    strategy: str
    """What its author calls it, for instance `concat`; for people only."""
    takes_mask: bool = False
    """Whether it reads the attention mask beside a text sequence."""


class FileEntry(_Table):
    """One file, for integrity checks."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class BundleManifest(_Table):
    """The content of bundle.toml."""

    schema_version: Literal[1] = SCHEMA_VERSION
    app: str
    task: Task = "classification"
    labels: list[str]
    """In the order of the probabilities; of a regression, what each score is; none for embeddings.
    """
    thresholds: list[float] = []
    """Of a multi-label model: from which probability on each label holds."""
    units: list[float] = []
    """Of a regression: the spread of each score in training."""
    embedding_size: int | None = Field(default=None, ge=1)
    """Of an app that embeds: D of its vectors."""
    modalities: list[Modality] = ["text", "image"]
    entry_points: list[list[Modality]]
    """The sets of modalities that callers may give; the main one first."""
    sources: Sources = Sources()
    text: TextPreprocessing
    image: ImagePreprocessing
    text_encoder: EncoderEntry
    image_encoder: EncoderEntry
    fusion_head: FusionHeadEntry
    files: dict[str, FileEntry]
    """Every other file of the bundle, by its path."""

    @property
    def verb(self) -> Verb:
        """What the entry points do."""
        return VERB_OF[self.task]

    @field_validator("app")
    @classmethod
    def _app(cls, name: str) -> str:
        if not is_app_name(name):
            raise ValueError(
                f"{name!r} is not an app name; use lower-case letters, digits and _, letter first"
            )
        return name

    @field_validator("labels")
    @classmethod
    def _labels(cls, labels: list[str]) -> list[str]:
        repeated = {label for label in labels if labels.count(label) > 1}
        if repeated:
            raise ValueError(f"labels are repeated: {sorted(repeated)}")
        return labels

    @model_validator(mode="after")
    def _fits_task(self) -> BundleManifest:
        main = list(ENTRY_POINTS[self.task][0])
        if not self.entry_points or self.entry_points[0] != main:
            raise ValueError(f"entry_points must start with {main} for {self.task}")
        least = LEAST_LABELS[self.task]
        if len(self.labels) < least or (self.labels and self.task == "embedding"):
            wanted = "none" if self.task == "embedding" else f"at least {least}"
            raise ValueError(f"there are {len(self.labels)} labels; {self.task} needs {wanted}")
        for name, values, task in (
            ("thresholds", self.thresholds, "multilabel"),
            ("units", self.units, "regression"),
        ):
            wanted_count = len(self.labels) if self.task == task else 0
            if len(values) != wanted_count:
                raise ValueError(f"there are {len(values)} {name} for {len(self.labels)} labels")
        if (self.embedding_size is None) == (self.task == "embedding"):
            raise ValueError("embedding_size is for embedding, which needs it")
        if any(not 0 <= value <= 1 for value in self.thresholds):
            raise ValueError("thresholds are probabilities, 0 to 1")
        if any(not 0 < value < float("inf") for value in self.units):
            raise ValueError("units are spreads, above 0")
        if (self.text_encoder.features == "words") != (self.task == "tagging"):
            raise ValueError(f"{self.text_encoder.features} text features are not for {self.task}")
        return self
