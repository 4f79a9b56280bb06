"""round.json: which bundle is continued, with what, and whether that was worth it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tritium_builders.data.card import Previous
from tritium_builders.data.dataset import Side
from tritium_builders.training.records import Record
from tritium_builders.training.rounds.additions import Reason

if TYPE_CHECKING:
    from rich.console import RenderableType

HeldOut = Literal["held out before", "new", "all"]


class AddedFile(Record):
    """One manifest of `--data`."""

    path: str
    sha256: str
    """Of the manifest and its pictures."""
    items: int
    unlabelled: int
    """Items without a label, which were left out."""
    skipped: int
    """Items that were left out because of their pictures."""


class Compared(Record):
    """Both bundles' heads on the same items, which neither was trained on; figures are 0 to 1."""

    items: HeldOut
    """`held out before`: the recipe's own held-out items, the same in every round."""
    count: int
    previous_accuracy: float
    accuracy: float
    previous_macro_f1: float
    """Over the labels that occur among these items."""
    macro_f1: float


class RoundRecord(Record):
    """The content of round.json."""

    previous: Previous
    files: list[AddedFile]
    added: dict[Side, int]
    """How many new items each side got."""
    left_out: dict[Reason, int]
    """New items that are in the data already (`known`, or with another label: `contradicts`), or
    near-duplicates of items that are held out or watched."""
    new_labels: list[str]
    compared: list[Compared]

    def to_json(self) -> bytes:
        """Write round.json, the same bytes for the same round."""
        return (self.model_dump_json(indent=2) + "\n").encode()


WORDS: dict[Reason, str] = {
    "known": "are in the data already",
    "contradicts": "are in the data already with another label",
    "like_held_out": "are like held-out items",
    "like_validation": "are like validation items",
}


def render_round(record: RoundRecord) -> RenderableType:
    """Lay the comparison out for a terminal."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    previous = f"{record.previous.bundle} ({record.previous.hash[:12]})"
    table = Table(title=escape(f"beside {previous}, on items that neither was trained on"))
    table.add_column("held-out items")
    for column in ("count", "accuracy before", "now", "macro F1 before", "now"):
        table.add_column(column, justify="right")
    for row in record.compared:
        figures = (row.previous_accuracy, row.accuracy, row.previous_macro_f1, row.macro_f1)
        table.add_row(row.items, str(row.count), *(f"{100 * one:.1f}" for one in figures))
    return Group(table, *(escape(line) for line in remarks(record)))


def remarks(record: RoundRecord) -> list[str]:
    """Say what became of the new items, a sentence each."""
    sides = ", ".join(f"{count} to {side}" for side, count in record.added.items())
    lines = [f"New items: {sides}."]
    lines += [f"{count} new items {WORDS[why]} and were left out." for why, count in
              record.left_out.items() if count]  # fmt: skip
    unlabelled = sum(file.unlabelled for file in record.files)
    lines += [f"{unlabelled} items have no label yet and were left out."] if unlabelled else []
    return lines + ([f"New labels: {', '.join(record.new_labels)}."] if record.new_labels else [])
