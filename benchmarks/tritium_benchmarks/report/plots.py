"""The pictures of a report: SVG, with units on every axis, in colours that all can tell apart.

Palette: Okabe and Ito, "Color Universal Design" (2008), https://jfly.uni-koeln.de/color/.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from tritium_benchmarks.contenders import LIMIT, TRITIUM
from tritium_benchmarks.ratios import complete_repeats, loads, per_second, series
from tritium_benchmarks.records import QUANTILES, Measurement, RunRecord
from tritium_benchmarks.report.tables import mean_steps, outside
from tritium_benchmarks.steps import ENCODERS, WHOLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8A7F00", "#000000",
)  # fmt: skip
"""Okabe and Ito's; their yellow is darkened, which is invisible on white."""
MARKERS = "osD^vPX*"
SIZE = (5.4, 3.7)
"""Inches: legible when a telephone scales it to 370 pixels."""
STEP_TITLES = {
    "text_tokenizer": "tokenise",
    "text_encoder": "text encoder",
    "image_decoder": "decode",
    "image_encoder": "image encoder",
    "fusion_head": "fusion head",
}


def plots(record: RunRecord) -> dict[str, str]:
    """Title -> SVG, of every picture that the record has figures for."""
    drawn = {
        "Answers per second": throughput(record),
        "Latency: half of the requests, and all but one in a hundred": latency(record),
        "How latencies are distributed": distribution(record),
        "Where a request's time goes": breakdown(record),
    }
    return {title: svg for title, svg in drawn.items() if svg}


@contextmanager
def figure(columns: int = 1) -> Iterator[tuple[list[Axes], io.StringIO]]:
    """Panels side by side, in this project's style, and the file that has the SVG at the end."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.hashsalt": "tritium",  # the same figures give the same file
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
    }
    with mpl.rc_context(style):
        drawn = Figure(figsize=SIZE, layout="constrained")
        axes = drawn.subplots(1, columns, squeeze=False)[0]
        file = io.StringIO()
        yield list(axes), file
        drawn.savefig(file, format="svg", metadata={"Date": None})


def throughput(record: RunRecord) -> str:
    """Answers per second against load, everybody; the bars are the smallest and the largest."""
    if not complete_repeats(record):
        return ""
    with figure() as ((axes,), file):
        for index, (contender, title) in enumerate(record.contenders.items()):
            drawn = [
                (_position(record, contender, load), per_second(record, contender, load))
                for load in loads(record)
            ]
            drawn = [(place, values) for place, values in drawn if values]
            if not drawn:
                continue
            middle = [statistics.median(values) for _, values in drawn]
            error = [
                [value - min(values) for value, (_, values) in zip(middle, drawn, strict=True)],
                [max(values) - value for value, (_, values) in zip(middle, drawn, strict=True)],
            ]
            axes.errorbar(
                [place for place, _ in drawn], middle, error,
                label=title, capsize=2, **_style(index, contender),
            )  # fmt: skip
        limit = per_second(record, LIMIT, None, "in_process")
        if limit:
            axes.axhline(
                statistics.median(limit),
                color="#555555",
                linestyle=":",
                label=record.contenders[LIMIT],
            )
        _load_axis(axes, record)
        axes.set_ylabel("answers per second")
        axes.set_ylim(bottom=0)
        _legend(axes)
    return file.getvalue()


def latency(record: RunRecord) -> str:
    """p50 and p99 against load."""
    with figure(2) as (panels, file):
        for axes, field in zip(panels, ("p50", "p99"), strict=True):
            for index, (contender, title) in enumerate(record.contenders.items()):
                drawn = []
                for load in loads(record):
                    values = _latencies(series(record, contender, "driver", load), field)
                    if values:
                        place = _position(record, contender, load)
                        drawn.append((place, statistics.median(values)))
                if drawn:
                    axes.plot(*zip(*drawn, strict=True), label=title, **_style(index, contender))
            round_logarithmic(axes, axes.yaxis, "y")
            _load_axis(axes, record)
            axes.set_title(field, fontsize=10)
        panels[0].set_ylabel("latency, milliseconds")
        handles, labels = panels[0].get_legend_handles_labels()
        whole = panels[0].get_figure()
        if handles and whole is not None:
            whole.legend(handles, labels, loc="outside lower center", ncols=2)
    return file.getvalue() if handles else ""


def distribution(record: RunRecord) -> str:
    """Which share of the requests was answered within which time, under the middle load."""
    names = loads(record)
    if not names:
        return ""
    load = names[len(names) // 2]
    drew = False
    with figure() as ((axes,), file):
        for index, (contender, title) in enumerate(record.contenders.items()):
            known = [
                line.latency.quantiles
                for line in series(record, contender, "driver", load)
                if line.latency is not None and line.latency.quantiles
            ]
            if not known:
                continue
            drew = True
            across = [statistics.median(values) for values in zip(*known, strict=True)]
            style = {**_style(index, contender), "marker": ""}
            axes.plot(across, QUANTILES, label=title, **style)
        round_logarithmic(axes, axes.xaxis, "x")
        axes.set_xlabel(f"latency, milliseconds ({load})")
        axes.set_ylabel("% of requests answered")
        _legend(axes)
    return file.getvalue() if drew else ""


def breakdown(record: RunRecord) -> str:
    """A stacked bar for each load: waiting, computing in each step, and everything around it."""
    in_flight = list(dict.fromkeys(line.in_flight for line in record.steps))
    if not in_flight:
        return ""
    stacks = {count: _stack(record, count) for count in in_flight}
    names = list(dict.fromkeys(name for stack in stacks.values() for name in stack))
    with figure() as ((axes,), file):
        bottom = [0.0] * len(in_flight)
        for index, name in enumerate(names):
            # Shares: at 32 in flight a request takes twenty times as long as alone.
            shares = [
                100 * stacks[count].get(name, 0.0) / sum(stacks[count].values())
                for count in in_flight
            ]
            colour = "#BBBBBB" if name == "waiting" else COLOURS[index % len(COLOURS)]
            axes.bar(range(len(in_flight)), shares, 0.65, bottom, label=name, color=colour)
            bottom = [low + share for low, share in zip(bottom, shares, strict=True)]
        labels = [f"{count}\n({sum(stacks[count].values()):.0f} ms)" for count in in_flight]
        axes.set_xticks(range(len(in_flight)), labels)
        axes.set_xlabel("requests in flight (mean latency)")
        axes.set_ylabel("share of a request's time, %")
        axes.grid(axis="x", visible=False)
        handles, found = axes.get_legend_handles_labels()
        axes.legend(
            handles[::-1], found[::-1], loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8.5
        )
    return file.getvalue()


def _stack(record: RunRecord, in_flight: int) -> dict[str, float]:
    """Milliseconds by what they went into, bottom first; together a request's mean latency."""
    steps = {line.step: line for line in mean_steps(record, in_flight)}
    whole = steps.pop(WHOLE, None)
    stack = {"waiting": sum(line.queue_ms for line in steps.values())}
    encoders = steps.pop(ENCODERS, None)
    for step, line in steps.items():
        stack[STEP_TITLES.get(step, step)] = line.total_ms - line.queue_ms
    if whole is not None:
        # What the encoders' queue took is in "waiting"; a request alone has two steps at a time.
        known = sum(line.total_ms for line in steps.values())
        known += 0.0 if encoders is None else encoders.queue_ms
        stack["between steps"] = max(whole.total_ms - known, 0.0)
    stack["client, network"] = outside(record, in_flight)
    return stack


def _latencies(lines: Sequence[Measurement], field: str) -> list[float]:
    return [getattr(line.latency, field) for line in lines if line.latency is not None]


def _position(record: RunRecord, contender: str, load: str) -> float:
    """Where a load stands on the axis: requests in flight, or how many came per second."""
    lines = series(record, contender, "driver", load)
    if lines and lines[0].rate is not None:
        return statistics.median(line.rate or 0.0 for line in lines)
    return float(lines[0].in_flight or 0) if lines else 0.0


def _load_axis(axes: Axes, record: RunRecord) -> None:
    counts = sorted({line.in_flight for line in record.measurements if line.in_flight})
    if any(line.rate for line in record.measurements):
        axes.set_xlabel("requests sent per second")
        return
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_xlabel("requests in flight")


def round_logarithmic(axes: Axes, axis: Axis, which: Literal["x", "y"]) -> None:
    """A logarithmic axis whose ticks are round numbers, not powers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _style(index: int, contender: str) -> dict[str, Any]:
    ours = contender == TRITIUM
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 5,
        "linewidth": 2.4 if ours else 1.3,
        "zorder": 3 if ours else 2,
    }


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    whole = axes.get_figure()
    if handles and whole is not None:
        whole.legend(handles, labels, loc="outside lower center", ncols=2)
