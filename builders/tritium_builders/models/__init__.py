"""Architectures that a bundle keeps by name and weights, and how they are loaded."""

from tritium_builders.models.ensembles import (
    ConcatenatedEncoder,
    EnsembleHead,
    SequenceEnsembleHead,
)
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
    EnsembleHead,
    SequenceEnsembleHead,
    ConcatenatedEncoder,
)

KNOWN_MODULES: dict[str, type[KnownModule]] = {module.kind: module for module in _ALL}
"""Kind, as bundles write it -> class."""

__all__ = [
    "FUSION_HEADS",
    "KNOWN_MODULES",
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
    "ImagePooling",
    "KnownModule",
    "LateFusion",
    "LoadedImageEncoder",
    "LoadedTextEncoder",
    "LowRankBilinearFusion",
    "SequenceCrossAttentionFusion",
    "SequenceEnsembleHead",
    "SingleModalityHead",
    "TextPooling",
    "WeightedSumFusion",
    "load_image_encoder",
    "load_text_encoder",
]
