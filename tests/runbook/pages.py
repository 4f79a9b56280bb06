"""docs/runbook.md, taken apart: chapters, their commands, and what these are said to print."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from markdown_it import MarkdownIt

from tests.runbook.machine import ROOT

PAGE = ROOT / "docs" / "runbook.md"
Kind = Literal["check", "do", "over"]
SAID: dict[str, Kind] = {"Do": "do", "Over when": "over"}
"""A bold word begins what the commands after it are for; before the first one they look."""


@dataclass(frozen=True)
class Step:
    """One block of commands."""

    title: str
    kind: Kind
    code: str
    line: int
    shown: str
    """What it is said to print; `...` stands for anything. Empty where the page does not say."""

    def fits(self, printed: str) -> bool:
        """Whether the page tells the truth."""
        pattern = re.escape(_flat(self.shown)).replace(re.escape("..."), ".*")
        return re.fullmatch(pattern, _flat(printed)) is not None


@dataclass(frozen=True)
class Chapter:
    """One heading, and what is below it."""

    title: str
    text: str
    steps: tuple[Step, ...]
    others: tuple[str, ...]
    """Blocks of commands that cannot be run here: Kubernetes'."""

    @property
    def anchor(self) -> str:
        """How links name it; Python-Markdown's `toc` makes it so."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")

    def of(self, kind: Kind) -> list[Step]:
        """Its steps that look, act, or look whether it is over."""
        return [step for step in self.steps if step.kind == kind]


def chapters() -> dict[str, Chapter]:
    """Title -> chapter, in order."""
    source = PAGE.read_text("utf-8")
    pieces = re.split(r"^## (.*)$", source, flags=re.MULTILINE)
    found, line = {}, pieces[0].count("\n")
    for title, text in zip(pieces[1::2], pieces[2::2], strict=True):
        found[title] = _chapter(title, text, line)
        line += text.count("\n")
    return found


def _chapter(title: str, text: str, line: int) -> Chapter:
    steps: list[Step] = []
    others: list[str] = []
    kind: Kind = "check"
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "inline":
            for word in re.findall(r"\*\*([A-Z][a-z ]+):?\*\*", token.content):
                kind = SAID.get(word, kind)
        if token.type != "fence" or token.map is None:
            continue
        if token.info == "bash":
            steps.append(Step(title, kind, token.content, line + token.map[0] + 2, ""))
        elif re.match(r"kubectl|helm", token.content):
            others.append(token.content)
        else:  # what was printed, by the last commands
            last = steps.pop()
            assert not last.shown, f"{title}: {token.content}"
            steps.append(Step(title, last.kind, last.code, last.line, token.content))
    return Chapter(title, text, tuple(steps), tuple(others))


def _flat(text: str) -> str:
    """In one line: widths of tables, and where lines are broken, are nobody's business."""
    return re.sub(r"\s+", " ", re.sub(r"[─━]+", "─", text)).strip()
