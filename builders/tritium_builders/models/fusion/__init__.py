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
from tritium_builders.models.fusion.late import LateFusion
from tritium_builders.models.fusion.low_rank_bilinear import LowRankBilinearFusion
from tritium_builders.models.fusion.single_modality import SingleModalityHead
from tritium_builders.models.fusion.temperature_scaled import TemperatureScaled
from tritium_builders.models.fusion.weighted_sum import WeightedSumFusion

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
"""Strategy, as recipes and bundles write it -> class."""

__all__ = [
    "FUSION_HEADS",
    "ConcatFusion",
    "CrossAttentionFusion",
    "CrossModalTransformerFusion",
    "FusionHead",
    "GatedFusion",
    "HierarchicalFusion",
    "LateFusion",
    "LowRankBilinearFusion",
    "PooledFusion",
    "SequenceCrossAttentionFusion",
    "SingleModalityHead",
    "TemperatureScaled",
    "WeightedSumFusion",
]
