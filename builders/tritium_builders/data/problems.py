"""What is wrong with a manifest: gathered, and told together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from tritium_builders.errors import RecipeError

TOLD = 10
"""How many problems a message tells; it says how many more there are."""
KEPT = 1000
"""How many are kept for scripts: a manifest of a million lines may have a million of them."""


@dataclass(frozen=True)
class Problem:
    """One thing that has to be mended before anything can be trained."""

    where: str
    """The file, and the line (text files) or row (Parquet), counted from 1."""
    column: str | None
    """As the manifest names it; None when no one column is meant."""
    problem: str
    fix: str

    def __str__(self) -> str:
        column = "" if self.column is None else f"column {self.column}: "
        return f"{self.where}: {column}{self.problem}; {self.fix}"

    def as_dict(self) -> Mapping[str, str | None]:
        """For JSON."""
        return asdict(self)


class ManifestError(RecipeError):
    """A manifest, or a picture that it names, cannot be used.

    Args:
        problems: What is wrong, a line of the message each for the first ten.
        more: How many problems there are besides.
    """

    def __init__(self, problems: tuple[Problem, ...], more: int = 0) -> None:
        lines = [str(problem) for problem in problems[:TOLD]]
        untold = max(len(problems) - TOLD, 0) + more
        if untold:
            lines.append(f"and {untold} more problem{'' if untold == 1 else 's'}")
        super().__init__("\n".join(lines))
        self.problems = problems
        self.more = more


class Problems:
    """Gathers problems, so that one run tells all of them.

    Args:
        file: The manifest, as messages name it.
        unit: What a manifest of this kind consists of: `line` or `row`.
    """

    def __init__(self, file: str, unit: str = "line") -> None:
        self.file = file
        self.unit = unit
        self._kept: list[Problem] = []
        self._more = 0

    def __len__(self) -> int:
        return len(self._kept) + self._more

    def add(
        self, problem: str, fix: str, *, line: int | None = None, column: str | None = None
    ) -> None:
        """Note a problem.

        Args:
            problem: What is wrong.
            fix: What to do about it.
            line: Line or row, from 1; None when the file is meant.
            column: The manifest's name of the column; None when no one column is meant.
        """
        if len(self._kept) == KEPT:
            self._more += 1
            return
        where = self.file if line is None else f"{self.file}, {self.unit} {line}"
        self._kept.append(Problem(where, column, problem, fix))

    def tell(self) -> None:
        """End here if there are any.

        Raises:
            ManifestError: with all of them.
        """
        if self._kept:
            raise ManifestError(tuple(self._kept), self._more)
