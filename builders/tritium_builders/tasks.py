"""What follows from what an app is for: how a head's logits become answers.

Training, PyTorch's reference and the exported graph all take it from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium_client.contract import OUTPUTS, VERB_OF, Modality, Task

if TYPE_CHECKING:
    from torch import Tensor

NORM_FLOOR = 1e-12
"""A vector of zeros stays one and does not become NaN."""

ENTRY_POINTS: dict[Task, tuple[tuple[Modality, ...], ...]] = {
    "classification": (("text", "image"), ("text",), ("image",)),
    "multilabel": (("text", "image"), ("text",), ("image",)),
    "regression": (("text", "image"), ("text",), ("image",)),
    "tagging": (("text", "image"), ("text",)),
    "embedding": (("text",), ("image",)),
}
"""The sets of modalities that callers may give, at the most; the main one first."""


def answer_tensor(task: Task) -> str:
    """Name the tensor of the answer, for instance `probabilities`."""
    return OUTPUTS[VERB_OF[task]][0]


def to_answers(task: Task, logits: Tensor) -> Tensor:
    """Turn a head's logits into what a caller gets.

    Args:
        task: What the head is for.
        logits: FP32 [B, K], of `tagging` [B, words, K].

    Returns:
        FP32 of the same shape. Classification and tagging: probabilities that sum to 1;
        multilabel: one probability for each label; regression: the scores as they are;
        embedding: vectors of length 1.
    """
    match task:
        case "classification" | "tagging":
            return logits.softmax(-1)
        case "multilabel":
            return logits.sigmoid()
        case "regression":
            return logits
        case "embedding":
            lengths: Tensor = logits.norm(dim=-1, keepdim=True)
            return logits / lengths.clamp(min=NORM_FLOOR)
