"""An explanation: what a method found out about one answer."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from tritium_client.contract import Task

Method = Literal["integrated_gradients", "gradient", "attention", "occlusion"]
GRID = 14
"""Rows and columns of regions that a picture's attributions are summed up in."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TokenAttribution(_Record):
    """One token of the text."""

    token: str
    """As the text has it; of a special token, its name."""
    start: int
    """Its first character in the text, and the one after its last; both 0 of a special token."""
    end: int
    special: bool
    attribution: float


class ModalityShare(_Record):
    """What a modality as a whole adds."""

    attribution: float | None
    """Sum over its tokens or regions; None of a method whose attributions do not add up."""
    share: float | None
    """Of both modalities' sums without their signs, 0 to 1; likewise."""
    without: float | None
    """The output with this modality absent; None where the app does not answer without it."""


class Explanation(_Record):
    """Why one output is what it is.

    Attributions are in the unit of the output. They are positive for what raises it, and negative
    for what lowers it; those of `attention` have no sign and say what was looked at.
    """

    app: str
    task: Task
    method: Method
    label: str
    """Whose output is explained; `similarity` of an app that embeds."""
    word: str | None
    """Whose tag it is, of an app that tags words."""
    output: float
    """With both modalities: the label's probability, or its score; a cosine of an app that embeds.
    """
    best: dict[str, float]
    """The highest outputs, at most five."""
    baseline: float | None
    """The output for the blank item that attributions start from; None of methods without one."""
    gap: float | None
    """`output - baseline` less the sum of all attributions: 0 but for rounding of the path."""
    tokens: list[TokenAttribution]
    regions: list[list[float]]
    """Rows of `GRID` by `GRID` regions of the picture as the model sees it; empty: none."""
    text: ModalityShare
    image: ModalityShare
    notes: list[str]

    @property
    def question(self) -> str:
        """What is explained, for instance `fruit`, or `Rome: B-LOC`."""
        return self.label if self.word is None else f"{self.word}: {self.label}"

    @property
    def is_probability(self) -> bool:
        """Whether the output is one, and attributions are points of it."""
        return self.task not in ("regression", "embedding")

    def to_json(self) -> str:
        """Write it as JSON."""
        return self.model_dump_json(indent=2)
