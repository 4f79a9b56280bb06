"""Fusion strategies on the demo data: `make fusion-table` writes results/fusion_strategies.md.

    python -m tritium_benchmarks.fusion_table recipes/openmoji.toml benchmarks/results \
        --page docs/fusion.md

All strategies that fit the recipe's pooling, through `tritium train --compare`'s own code, with
five seeds. Figures but the milliseconds are the same on every run of one machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tritium_benchmarks.report.pages import fill_places
from tritium_benchmarks.results import write_results
from tritium_builders.training.comparison import HEADINGS, Comparison, cells
from tritium_builders.training.run import compare_strategies

SEEDS = 5
NAME = "fusion_strategies"


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, and write the table, its figures and the page that shows it."""
    parser = argparse.ArgumentParser(description="Compare fusion strategies.")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--page", type=Path, required=True)
    given = parser.parse_args(arguments)
    comparison = compare_strategies(given.recipe, "all", seeds=range(SEEDS))
    table = render(comparison)
    write_results(given.results, NAME, comparison.model_dump(mode="json"), table)
    page = given.page.read_text("utf-8")
    given.page.write_text(fill_places(page, "fusion", {"table": table}), "utf-8")


def render(comparison: Comparison) -> str:
    """Write the comparison as a Markdown table; the best by validation accuracy is bold."""
    rows = [_line(HEADINGS), _line(("---", *["---:"] * (len(HEADINGS) - 1)))]
    for name, *figures in cells(comparison):
        if name == comparison.best:
            rows.append(_line([f"**`{name}`**", *(f"**{figure}**" for figure in figures)]))
        else:
            rows.append(_line([f"`{name}`" if figures[0] else name, *figures]))
    caption = (
        f"In %, mean ± half the range over {len(comparison.seeds)} seeds. "
        f"{comparison.held_out} held-out items of {comparison.items:,} "
        f"(fold {comparison.fold} of {comparison.folds}); `validation` is the accuracy on "
        f"{comparison.validation} others, and the best by it is bold. Calibration error: "
        f"{comparison.bins} bins of equal width. `ms`: the head's exported graph for one item, "
        "ONNX Runtime, one thread, median."
    )
    return "\n".join([*rows, "", caption]) + "\n"


def _line(cells_: Sequence[str]) -> str:
    return f"| {' | '.join(cells_)} |"


if __name__ == "__main__":
    main()
