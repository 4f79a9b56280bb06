"""The schema of bundle.toml, the hand-over from training to building."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tritium_builders.preprocessing import ImagePreprocessing, TextPreprocessing
from tritium_client.contract import (
    IMAGE_FEATURES,
    IMAGE_SEQUENCE,
    TEXT_FEATURES,
    TEXT_SEQUENCE,
    Modality,
    Role,
    is_app_name,
)

SCHEMA_VERSION: Literal[1] = 1
EXPORTED = "onnx"
"""The architecture of a component whose classes we do not know: its graph is kept instead."""


FeatureKind = Literal["pooled", "sequence"]
"""`pooled`: [D] for an item; `sequence`: [tokens or patches, D]."""

FEATURE_TENSORS: dict[tuple[Modality, FeatureKind], str] = {
    ("text", "pooled"): TEXT_FEATURES,
    ("text", "sequence"): TEXT_SEQUENCE,
    ("image", "pooled"): IMAGE_FEATURES,
    ("image", "sequence"): IMAGE_SEQUENCE,
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
    """Features of one item: [D]; [tokens, D] with tokens = -1; or [patches, D]."""


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
    task: Literal["classification"] = "classification"
    labels: list[str] = Field(min_length=2)
    """In the order of the probabilities."""
    modalities: list[Modality] = ["text", "image"]
    entry_points: list[list[Modality]]
    """The sets of modalities that callers may give; the full set first."""
    sources: Sources = Sources()
    text: TextPreprocessing
    image: ImagePreprocessing
    text_encoder: EncoderEntry
    image_encoder: EncoderEntry
    fusion_head: FusionHeadEntry
    files: dict[str, FileEntry]
    """Every other file of the bundle, by its path."""

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
    def _full_set_first(self) -> BundleManifest:
        if not self.entry_points or self.entry_points[0] != self.modalities:
            raise ValueError(f"entry_points must start with all modalities, {self.modalities}")
        return self
