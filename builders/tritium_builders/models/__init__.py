"""Architectures that a bundle keeps by name and weights, and how they are loaded."""

from tritium_builders.models.ensembles import ConcatenatedEncoder, EnsembleHead
from tritium_builders.models.fusion import (
    EMBEDDERS,
    FUSION_HEADS,
    HEADS,
    TAGGERS,
    ConcatFusion,
    CrossAttentionFusion,
    CrossModalTransformerFusion,
    FusionHead,
    GatedFusion,
    HierarchicalFusion,
    HybridFusion,
    JointEmbedding,
    LateFusion,
    LowRankBilinearFusion,
    SequenceCrossAttentionFusion,
    SingleModalityHead,
    TemperatureScaled,
    WeightedSumFusion,
    WordAttentionFusion,
)
from tritium_builders.models.image_encoders import (
    EfficientNetLite,
    HuggingFaceImageEncoder,
    ImagePooling,
    LoadedImageEncoder,
    load_image_encoder,
)
from tritium_builders.models.known import KnownModule
from tritium_builders.models.scaled import ScaledHead
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
    *HEADS.values(),
    SingleModalityHead,
    ScaledHead,
    TemperatureScaled,
    HybridFusion,
    EnsembleHead,
    ConcatenatedEncoder,
)

KNOWN_MODULES: dict[str, type[KnownModule]] = {module.kind: module for module in _ALL}
"""Kind, as bundles write it -> class."""

__all__ = [
    "EMBEDDERS",
    "FUSION_HEADS",
    "HEADS",
    "KNOWN_MODULES",
    "TAGGERS",
    "ConcatFusion",
    "ConcatenatedEncoder",
    "CrossAttentionFusion",
    "CrossModalTransformerFusion",
    "EfficientNetLite",
    "EnsembleHead",
    "FusionHead",
    "GatedFusion",
    "HierarchicalFusion",
    "HuggingFaceImageEncoder",
    "HuggingFaceTextEncoder",
    "HybridFusion",
    "ImagePooling",
    "JointEmbedding",
    "KnownModule",
    "LateFusion",
    "LoadedImageEncoder",
    "LoadedTextEncoder",
    "LowRankBilinearFusion",
    "ScaledHead",
    "SequenceCrossAttentionFusion",
    "SingleModalityHead",
    "TemperatureScaled",
    "TextPooling",
    "WeightedSumFusion",
    "WordAttentionFusion",
    "load_image_encoder",
    "load_text_encoder",
]
