"""What a rollout command will do, step by step: printed with --dry-run, or carried out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Step:
    """One thing to do."""

    text: str
    """What, in words."""
    act: Callable[[], str]
    """Does it, and says what came of it; nothing where there is nothing to add."""


@dataclass(frozen=True)
class Plan:
    """All of it, in order. Steps that find their work done do nothing."""

    title: str
    """For instance `promote openmoji 2`."""
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()
    """What whoever reads the plan wants to know besides."""


@dataclass(frozen=True)
class StepEvent:
    """A step begins or has ended."""

    kind: Literal["begin", "end", "progress", "note"]
    text: str
    """The step's; of `progress`, what is counted; of `note`, what there is to say."""
    found: str = ""
    """Of `end`: what came of it."""
    done: int = 0
    """Of `progress`."""
    total: int = 0
    """Of `progress`."""


OnStep = Callable[[StepEvent], None]


def ignore(event: StepEvent) -> None:
    """Listen to nothing."""


def carry_out(plan: Plan, on_step: OnStep, before_each: Callable[[], None]) -> None:
    """Do the steps of a plan in turn; the first that fails ends it.

    Args:
        plan: What to do.
        on_step: Told each beginning and end.
        before_each: Called before every step: raises when it may not be done any more.
    """
    for step in plan.steps:
        before_each()
        on_step(StepEvent("begin", step.text))
        found = step.act()
        on_step(StepEvent("end", step.text, found))
