"""Curves as pictures and tables, and into the page that explains them.

python -m tritium_benchmarks.curves.show benchmarks/results/curves docs/performance.md
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from tritium_benchmarks.curves.axes import ALONE, AXES, BUSY
from tritium_benchmarks.curves.records import Curves, Place, median, read_curves
from tritium_benchmarks.report.pages import fill_places
from tritium_benchmarks.report.plots import COLOURS, figure, round_logarithmic
from tritium_benchmarks.report.tables import Table


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the pictures beside the page, and rewrite its tables."""
    parser = argparse.ArgumentParser(description="Put curves into a page.")
    parser.add_argument("run", type=Path)
    parser.add_argument("page", type=Path)
    given = parser.parse_args(arguments)
    curves = read_curves(given.run)
    pictures = given.page.parent / "images"
    pictures.mkdir(exist_ok=True)
    for axis in measured(curves):
        (pictures / f"curve-{axis}.svg").write_text(picture(curves, axis), "utf-8")
    page = given.page.read_text("utf-8")
    given.page.write_text(fill_places(page, "curves", places(curves)), "utf-8")


def places(curves: Curves) -> dict[str, str]:
    """What a page can show: name -> Markdown."""
    known = {axis: table(curves, axis).to_markdown() for axis in measured(curves)}
    manifest = curves.manifest
    machine = f"{manifest['processor']}, {manifest['cores']} cores; {manifest['started'][:10]}."
    return {**known, "machine": machine}


def measured(curves: Curves) -> list[str]:
    """The axes that there are figures for."""
    return [axis for axis in AXES if curves.at(axis)]


def picture(curves: Curves, axis: str) -> str:
    """Answers per second and p50 along an axis, as SVG; bars are the least and the most."""
    rate, wait = _loads(axis)
    with figure(2) as ((left, right), file):
        for panel, in_flight, of in (
            (left, rate, _per_second),
            (right, wait, _p50),
        ):
            told = {
                x: [value for place in places if (value := of(place)) is not None]
                for x, places in curves.at(axis, in_flight).items()
            }
            drawn = {x: values for x, values in told.items() if values}
            middle = [statistics.median(values) for values in drawn.values()]
            bars = [
                [value - min(values) for value, values in zip(middle, drawn.values(), strict=True)],
                [max(values) - value for value, values in zip(middle, drawn.values(), strict=True)],
            ]
            xs = list(drawn)
            panel.errorbar(xs, middle, bars, color=COLOURS[0], marker="o", markersize=4, capsize=2)
            panel.set_xscale("log", base=2)
            panel.set_xticks(xs, [str(x) for x in xs], rotation=45 if len(xs) > 6 else 0)
            panel.minorticks_off()
            panel.set_xlabel(AXES[axis].unit, fontsize=9)
        left.set_ylim(bottom=0)
        left.set_title(f"answers per second{_under(rate)}", fontsize=9)
        right.set_title(f"p50, milliseconds{_under(wait)}", fontsize=9)
        round_logarithmic(right, right.yaxis, "y")
    return file.getvalue()


def table(curves: Curves, axis: str) -> Table:
    """Every place of an axis: medians over the repeats, and the spread of the throughput."""
    rate, wait = _loads(axis)
    rows: list[tuple[str, ...]] = []
    for x, busy in curves.at(axis, rate).items():
        alone = curves.at(axis, wait)[x]
        failed = sum(sum(place.failures.values()) for place in busy)
        rates = [place.per_second for place in busy]
        rows.append(
            (
                str(x),
                f"{median(busy, _per_second) or 0:.1f} ({min(rates):.1f} to {max(rates):.1f})",
                _milliseconds(median(busy, _p50)),
                _milliseconds(median(busy, _p99)),
                _milliseconds(median(alone, _p50)),
                str(failed),
            )
        )
    headings: tuple[str, ...] = (
        AXES[axis].unit,
        f"answers/s{_under(rate)}",
        "p50, ms",
        "p99, ms",
        f"p50{_under(wait)}, ms",
        "failed",
    )
    if rate == wait:
        headings, rows = _without(headings, 4), [_without(row, 4) for row in rows]
    return Table(AXES[axis].title, headings, tuple(rows))


def _without(row: tuple[str, ...], index: int) -> tuple[str, ...]:
    return (*row[:index], *row[index + 1 :])


def _loads(axis: str) -> tuple[int | None, int | None]:
    """Requests in flight where throughput is told, and where latency is; None where one is x."""
    loads = {point.in_flight for point in AXES[axis].points(1)}
    return (BUSY, ALONE) if loads == {ALONE, BUSY} else (None, None)


def _under(in_flight: int | None) -> str:
    if in_flight is None:
        return ""
    return ", alone" if in_flight == ALONE else f", {in_flight} in flight"


def _per_second(place: Place) -> float:
    return place.per_second


def _p50(place: Place) -> float | None:
    return place.latency.p50 if place.latency else None


def _p99(place: Place) -> float | None:
    return place.latency.p99 if place.latency else None


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    main()
