"""What is right for an item, as a manifest says it: a label, labels, scores or entities."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from tritium_builders.data.dataset import Item
from tritium_builders.data.problems import Problems
from tritium_builders.data.records import Record, describe
from tritium_builders.samples import Span, Target
from tritium_client.contract import Task

QUANTILES = 5
"""Parts of a score's range that every fold has its share of."""
NOTHING = "O"
"""The tag of a word that belongs to no entity."""


@dataclass(frozen=True)
class TargetColumns:
    """Where a manifest says what is right."""

    task: Task = "classification"
    values: tuple[str, ...] = ()
    """Of a regression: the columns that hold scores, by the manifest's names."""
    separator: str = "|"
    """Between the labels of an item, where they are one text."""

    @property
    def required(self) -> tuple[str, ...]:
        """Our names of the columns that a manifest needs."""
        match self.task:
            case "classification" | "multilabel":
                return ("label",)
            case "regression":
                return tuple(value_name(column) for column in self.values)
            case "tagging":
                return ("entities",)
            case "embedding":
                return ()

    @property
    def columns(self) -> dict[str, str]:
        """Our names of the score columns -> the manifest's."""
        return {value_name(column): column for column in self.values}


def value_name(column: str) -> str:
    """Our name of a column that holds a score."""
    return f"value {column}"


class _RefusedError(Exception):
    """What is wrong with a cell."""

    def __init__(self, name: str, problem: str, fix: str) -> None:
        super().__init__(problem)
        self.name = name
        self.problem = problem
        self.fix = fix


class TargetReader:
    """Reads what is right for an item of any task but classification.

    Args:
        where: Which columns.
        columns: Our name of a column -> the manifest's.
        problems: Receives what is wrong.
    """

    def __init__(
        self, where: TargetColumns, columns: Mapping[str, str], problems: Problems
    ) -> None:
        self._where = where
        self._columns = columns
        self._problems = problems

    def read(self, record: Record, text: str | None) -> Target | None:
        """What is right; None after a problem was noted, and for a task that needs nothing.

        Args:
            record: The line.
            text: Its text, which entities lie in.
        """
        try:
            match self._where.task:
                case "multilabel":
                    return self._labels(record)
                case "regression":
                    return self._scores(record)
                case "tagging":
                    return self._entities(record, text or "")
                case _:
                    return None
        except _RefusedError as refused:
            column = self._columns[refused.name]
            self._problems.add(refused.problem, refused.fix, line=record.line, column=column)
            return None

    def _labels(self, record: Record) -> tuple[str, ...]:
        value = record.values.get("label")
        if value is None or value == "":
            return ()
        if isinstance(value, str):
            value = [part.strip() for part in value.split(self._where.separator)]
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise _RefusedError(
 "label", f"is {describe(value)}",
                f"write a list of labels, or a text with {self._where.separator!r} between them",
            )  # fmt: skip
        for label in value:
            if not label or label != label.strip() or value.count(label) > 1:
                raise _RefusedError(
 "label", f"{label!r} is empty, is there twice, or has blanks around it",
                    "correct it",
                )  # fmt: skip
        return tuple(value)

    def _scores(self, record: Record) -> tuple[float, ...]:
        found = []
        for column in self._where.values:
            name = value_name(column)
            value = record.values.get(name)
            try:
                if isinstance(value, bool) or not isinstance(value, int | float | str):
                    raise ValueError(describe(value))  # noqa: TRY004 - told as one of the file's
                number = float(value)
                if not math.isfinite(number):
                    raise ValueError(f"{value!r}")
            except (ValueError, OverflowError) as error:
                raise _RefusedError(
                    name, f"is no number ({error})", "write one or remove the item"
                ) from error
            found.append(number)
        return tuple(found)

    def _entities(self, record: Record, text: str) -> tuple[Span, ...]:
        value = record.values.get("entities")
        if isinstance(value, str):  # a CSV file has no lists
            try:
                value = json.loads(value or "[]")
            except (ValueError, RecursionError) as error:
                raise _RefusedError("entities", f"is not valid JSON ({error})", _WRITE) from error
        if value is None:
            return ()
        if not isinstance(value, list):
            raise _RefusedError("entities", f"is {describe(value)}", _WRITE)
        spans = []
        for one in value:
            span = _span(one)
            if span is None:
                raise _RefusedError("entities", f"{one!r} is no entity", _WRITE)
            begin, end, label = span
            if not 0 <= begin < end <= len(text):
                raise _RefusedError(
 "entities", f"{one!r} lies outside the text's {len(text)} characters",
                    "count characters from 0; the end is the one after the last",
                )  # fmt: skip
            if label == NOTHING or "-" in label[:2] or not label.strip():
                raise _RefusedError(
 "entities", f"{label!r} is no label of an entity",
                    "write it without B- or I-",
                )  # fmt: skip
            spans.append(span)
        spans.sort()
        for first, second in pairwise(spans):
            if second[0] < first[1]:
                raise _RefusedError("entities", f"{first} and {second} overlap", "keep one of them")
        return tuple(spans)


_WRITE = 'write [{"start": 0, "end": 5, "label": "PLACE"}] or [[0, 5, "PLACE"]]'


def _span(value: object) -> Span | None:
    if isinstance(value, dict):
        value = [value.get(name) for name in ("start", "end", "label")]
    if not isinstance(value, list | tuple) or len(value) != 3:
        return None
    begin, end, label = value
    if type(begin) is not int or type(end) is not int or not isinstance(label, str):
        return None
    return begin, end, label


def labels_of(items: Sequence[Item], where: TargetColumns) -> tuple[str, ...]:
    """The labels of a data set, in the order of a head's logits.

    Classification and multi-label: those that occur, sorted; regression: the scores' names;
    tagging: `O`, and `B-` and `I-` of every entity's label.
    """
    match where.task:
        case "classification":
            return tuple(sorted({item.label for item in items}))
        case "multilabel":
            return tuple(sorted({str(label) for item in items for label in item.target or ()}))
        case "regression":
            return where.values
        case "tagging":
            kinds = sorted(entity_labels(items))
            return (NOTHING, *(f"{part}-{kind}" for kind in kinds for part in "BI"))
        case "embedding":
            return ()


def entity_labels(items: Sequence[Item]) -> set[str]:
    """The labels of all entities."""
    return {span[2] for item in items for span in item.target or () if isinstance(span, tuple)}


def with_strata(items: Sequence[Item], task: Task) -> tuple[Item, ...]:
    """Give every item the stratum, as its `label`, that each fold has its share of.

    Multi-label: the rarest of its labels; regression: the fifth of the first score's range that it
    is in; tagging: the rarest label of its entities.
    """
    if task == "regression":
        scores = [float(item.target[0]) for item in items if item.target]  # type: ignore[arg-type]
        bounds = np.quantile(scores, np.arange(1, QUANTILES) / QUANTILES)
        places = np.searchsorted(bounds, scores)
        pairs = zip(items, places, strict=True)
        return tuple(replace(item, label=f"fifth {place + 1}") for item, place in pairs)
    if task not in {"multilabel", "tagging"}:
        return tuple(items)
    held = [_held(item) for item in items]
    counts = Counter(label for own in held for label in own)
    rarest = (
        min(own, key=lambda label: (counts[label], label)) if own else NOTHING for own in held
    )
    return tuple(replace(item, label=label) for item, label in zip(items, rarest, strict=True))


def _held(item: Item) -> set[str]:
    return {one[2] if isinstance(one, tuple) else str(one) for one in item.target or ()}


def held_labels(item: Item, task: Task) -> set[str]:
    """What an item counts for in a table of labels."""
    if task == "classification":
        return {item.label}
    return _held(item) if task in {"multilabel", "tagging"} else set()


def tags_of(offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[str]:
    """BIO tags of a text's words: a word belongs to the entity that it shares a character with.

    Args:
        offsets: Where each word begins and ends, in order.
        spans: The entities, which do not overlap.
    """
    tags = []
    begun: set[Span] = set()
    for begin, end in offsets:
        own = next((span for span in spans if span[0] < end and begin < span[1]), None)
        if own is None:
            tags.append(NOTHING)
        else:
            tags.append(f"{'I' if own in begun else 'B'}-{own[2]}")
            begun.add(own)
    return tags
