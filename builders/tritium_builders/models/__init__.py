"""Architectures that a bundle keeps by name and weights, and how they are loaded."""

from tritium_builders.models.fusion import (
    FUSION_HEADS,
    ConcatFusion,
    CrossAttentionFusion,
    CrossModalTransformerFusion,
    FusionHead,
    GatedFusion,
    HierarchicalFusion,
    LateFusion,
    LowRankBilinearFusion,
    SequenceCrossAttentionFusion,
    SingleModalityHead,
    TemperatureScaled,
    WeightedSumFusion,
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
    *FUSION_HEADS.values(),
    SingleModalityHead,
    TemperatureScaled,
)

KNOWN_MODULES: dict[str, type[KnownModule]] = {module.kind: module for module in _ALL}
"""Kind, as bundles write it -> class."""

__all__ = [
    "FUSION_HEADS",
    "KNOWN_MODULES",
    "ConcatFusion",
    "CrossAttentionFusion",
    "CrossModalTransformerFusion",
    "EfficientNetLite",
    "FusionHead",
    "GatedFusion",
    "HierarchicalFusion",
    "HuggingFaceImageEncoder",
    "HuggingFaceTextEncoder",
    "ImagePooling",
    "KnownModule",
    "LateFusion",
    "LoadedImageEncoder",
    "LoadedTextEncoder",
    "LowRankBilinearFusion",
    "SequenceCrossAttentionFusion",
    "SingleModalityHead",
    "TemperatureScaled",
    "TextPooling",
    "WeightedSumFusion",
    "load_image_encoder",
    "load_text_encoder",
]
