"""Architectures that a bundle keeps by name and weights, and how they are loaded."""

from tritium_builders.models.fusion_heads import (
    ConcatFusion,
    CrossAttentionFusion,
    FusionHead,
    SequenceCrossAttentionFusion,
    SingleModalityHead,
)
from tritium_builders.models.image_encoders import (
    EfficientNetLite,
    HuggingFaceImageEncoder,
    ImagePooling,
    LoadedImageEncoder,
    load_image_encoder,
)
from tritium_builders.models.known import KnownModule
from tritium_builders.models.text_encoders import (
    HuggingFaceTextEncoder,
    LoadedTextEncoder,
    TextPooling,
    load_text_encoder,
)

_ALL: tuple[type[KnownModule], ...] = (
    HuggingFaceTextEncoder,
    HuggingFaceImageEncoder,
    EfficientNetLite,
    ConcatFusion,
    CrossAttentionFusion,
    SequenceCrossAttentionFusion,
    SingleModalityHead,
)

KNOWN_MODULES: dict[str, type[KnownModule]] = {module.kind: module for module in _ALL}
"""Kind, as bundles write it -> class."""

__all__ = [
    "KNOWN_MODULES",
    "ConcatFusion",
    "CrossAttentionFusion",
    "EfficientNetLite",
    "FusionHead",
    "HuggingFaceImageEncoder",
    "HuggingFaceTextEncoder",
    "ImagePooling",
    "KnownModule",
    "LoadedImageEncoder",
    "LoadedTextEncoder",
    "SequenceCrossAttentionFusion",
    "SingleModalityHead",
    "TextPooling",
    "load_image_encoder",
    "load_text_encoder",
]
