"""What each precision costs: `make tensorrt-table` writes benchmarks/results/tensorrt.md.

    python -m tritium_benchmarks.tensorrt_table bundles/openmoji benchmarks/results

Every precision goes through `tritium build --target tensorrt --check`'s own code. The figures need
no GPU: sizes, distances from fp32, accuracy, and how long TensorRT for RTX takes ahead of time.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from tritium_benchmarks.results import write_results
from tritium_builders.bundle import Bundle
from tritium_builders.release import Precision
from tritium_builders.tensorrt.check import CheckReport, check_tensorrt

HEADINGS = (
    "component", "precision", "ONNX", "cosine with fp32", "largest difference", "layers",
    "ahead of time",
)  # fmt: skip


def main(bundle: Path, results: Path) -> None:
    """Check a bundle in every precision, and write the table and what it was made from."""
    loaded = Bundle.load(bundle)
    reports = []
    for precision in get_args(Precision):
        print(f"{precision} ...", file=sys.stderr, flush=True)  # noqa: T201 - minutes pass
        reports.append(check_tensorrt(loaded, precision=precision))
    documents = [report.model_dump(mode="json") for report in reports]
    write_results(results, "tensorrt", documents, render(reports))


def render(reports: Sequence[CheckReport]) -> str:
    """Write the figures as two Markdown tables."""
    rows = [_line(HEADINGS), _line(["---"] * len(HEADINGS))]
    for role in reports[0].components:
        for report in reports:
            component = report.components[role]
            cast = component.cast
            row = [
                f"`{role}`",
                cast.precision if cast.precision == report.precision
                else f"{report.precision} ({cast.precision})",
                f"{cast.onnx_bytes / 1e6:.1f} MB",
                f"{cast.cosine:.6f}",
                f"{cast.largest_difference:.2g}",
                str(component.layers),
                f"{component.seconds:.1f} s",
            ]  # fmt: skip
            rows.append(_line(row))
    heading = ("precision", "top-1 change", "95 % interval", "both right", "only fp32", "only this")
    rows += ["", _line(heading), _line(["---"] * len(heading))]
    for report in reports:
        found = report.accuracy
        if found is None:
            continue
        low, high = found.interval
        row = [
            report.precision,
            f"{found.points:+.2f} points",
            f"{low:+.2f} to {high:+.2f}",
            f"{found.both_right} of {found.samples}",
            str(found.only_fp32_right),
            str(found.only_this_right),
        ]
        rows.append(_line(row))
    return "\n".join(rows) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
