"""Fusion heads: features of one or both modalities -> logits. One strategy, one file."""

from __future__ import annotations

from tritium_builders.models.fusion.base import FusionHead, PooledFusion
from tritium_builders.models.fusion.concat import ConcatFusion
from tritium_builders.models.fusion.cross_attention import (
    CrossAttentionFusion,
    SequenceCrossAttentionFusion,
)
from tritium_builders.models.fusion.cross_modal_transformer import CrossModalTransformerFusion
from tritium_builders.models.fusion.gated import GatedFusion
from tritium_builders.models.fusion.hierarchical import HierarchicalFusion
from tritium_builders.models.fusion.hybrid import HybridFusion
from tritium_builders.models.fusion.joint_embedding import JointEmbedding
from tritium_builders.models.fusion.late import LateFusion
from tritium_builders.models.fusion.low_rank_bilinear import LowRankBilinearFusion
from tritium_builders.models.fusion.single_modality import SingleModalityHead
from tritium_builders.models.fusion.temperature_scaled import TemperatureScaled
from tritium_builders.models.fusion.weighted_sum import WeightedSumFusion
from tritium_builders.models.fusion.word_attention import WordAttentionFusion

_ALL: tuple[type[FusionHead], ...] = (
    ConcatFusion,
    WeightedSumFusion,
    LateFusion,
    GatedFusion,
    LowRankBilinearFusion,
    HierarchicalFusion,
    CrossAttentionFusion,
    SequenceCrossAttentionFusion,
    CrossModalTransformerFusion,
)

FUSION_HEADS: dict[str, type[FusionHead]] = {head.kind: head for head in _ALL}
"""Strategy, as recipes and bundles write it -> class; each answers with one vector an item."""
TAGGERS: dict[str, type[FusionHead]] = {WordAttentionFusion.kind: WordAttentionFusion}
"""The same for heads that answer with one vector a word."""
EMBEDDERS: dict[str, type[FusionHead]] = {JointEmbedding.kind: JointEmbedding}
"""The same for heads that embed each modality by itself."""
HEADS: dict[str, type[FusionHead]] = FUSION_HEADS | TAGGERS | EMBEDDERS

__all__ = [
    "EMBEDDERS",
    "FUSION_HEADS",
    "HEADS",
    "TAGGERS",
    "ConcatFusion",
    "CrossAttentionFusion",
    "CrossModalTransformerFusion",
    "FusionHead",
    "GatedFusion",
    "HierarchicalFusion",
    "HybridFusion",
    "JointEmbedding",
    "LateFusion",
    "LowRankBilinearFusion",
    "PooledFusion",
    "SequenceCrossAttentionFusion",
    "SingleModalityHead",
    "TemperatureScaled",
    "WeightedSumFusion",
    "WordAttentionFusion",
]
