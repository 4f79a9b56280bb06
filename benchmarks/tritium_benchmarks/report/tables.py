"""The tables of a report, as headings and rows of short texts."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tritium_benchmarks.contenders import LIMIT, TRITIUM
from tritium_benchmarks.ratios import (
    Ratio,
    against,
    best_against,
    closed_loads,
    complete_repeats,
    loads,
    of_limit,
    per_second,
    series,
)
from tritium_benchmarks.records import Measurement, RunRecord, StepTime, Tool
from tritium_benchmarks.steps import WHOLE

TOOLS: dict[Tool, str] = {
    "driver": "asyncio driver",
    "perf_analyzer": "perf_analyzer",
    "in_process": "no server",
}


@dataclass(frozen=True)
class Table:
    """One table."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    words: tuple[int, ...] = (0,)
    """Columns that hold words and no figures."""

    def to_markdown(self) -> str:
        """The table alone, without its title and its note."""
        rules = ["---" if i in self.words else "---:" for i in range(len(self.headings))]
        lines = [self.headings, rules, *self.rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tables(record: RunRecord) -> list[Table]:
    """All tables that the record has figures for."""
    found = [comparison(record), throughput(record), latency(record), breakdown(record)]
    found += [fair(record), generators(record)]
    return [table for table in found if table.rows]


def throughput(record: RunRecord) -> Table:
    """Answers per second of everybody, with the spread over the repeats."""
    names = loads(record)
    rows = []
    for contender, title in record.contenders.items():
        for tool in ("driver", "perf_analyzer"):
            values = [per_second(record, contender, load, tool) for load in names]
            if any(values):
                label = title if tool == "driver" else f"{title}, by perf_analyzer"
                rows.append((label, *map(_spread, values)))
    limit = per_second(record, LIMIT, None, "in_process")
    if limit:
        way = series(record, LIMIT, "in_process", None)[0].load
        title = f"{record.contenders[LIMIT]} ({way})"
        rows.append((title, *[""] * (len(names) - 1), _spread(limit)))
    return Table(
        "Answers per second",
        ("", *names),
        tuple(rows),
        f"Median of {complete_repeats(record)} repeats, smallest and largest in brackets.",
    )


def comparison(record: RunRecord) -> Table:
    """Tritium's throughput over everybody else's."""
    names = closed_loads(record)
    rows = []
    for contender, title in record.contenders.items():
        if contender in {TRITIUM, LIMIT}:
            continue
        ratios = [against(record, contender, load) for load in names]
        if any(ratios):
            rows.append((title, *map(_ratio, [*ratios, best_against(record, contender)])))
    limits = [of_limit(record, load) for load in names]
    if any(limits):
        title = record.contenders[LIMIT]
        rows.append((title, *map(_ratio, [*limits, of_limit(record, None)])))
    return Table(
        "Tritium's throughput over",
        ("", *names, "best of each"),
        tuple(rows),
        "Above 1, Tritium is faster. Geometric means of ratios within repeats, with 95 % "
        "confidence intervals; asyncio driver on both sides.",
    )


def latency(record: RunRecord) -> Table:
    """Latency of everybody under every load."""
    rows = []
    for contender, title in record.contenders.items():
        for tool in ("driver", "perf_analyzer"):
            for load in loads(record):
                lines = series(record, contender, tool, load)
                row = _latency_row(lines)
                if row:
                    rows.append((title, TOOLS[lines[0].tool], load, *row))
    headings = ("", "asked by", "load", "answers/s", "p50", "p95", "p99", "p99 / p50", "failed")
    return Table(
        "Latency in milliseconds",
        headings,
        tuple(rows),
        "Medians over the repeats. Open loop: from when a request was due.",
        words=(0, 1, 2),
    )


def _latency_row(lines: Sequence[Measurement]) -> tuple[str, ...] | None:
    known = [line.latency for line in lines if line.latency is not None]
    if not known:
        return None
    p50 = statistics.median(latency.p50 for latency in known)
    p95 = statistics.median(latency.p95 for latency in known)
    p99 = statistics.median(latency.p99 for latency in known)
    failed = sum(sum(line.failures.values()) for line in lines)
    rate = statistics.median(line.per_second for line in lines)
    return f"{rate:.1f}", f"{p50:.1f}", f"{p95:.1f}", f"{p99:.1f}", f"{p99 / p50:.1f}", f"{failed}"


def breakdown(record: RunRecord) -> Table:
    """Where the time of Tritium's requests went."""
    rows = []
    for in_flight in dict.fromkeys(line.in_flight for line in record.steps):
        for line in mean_steps(record, in_flight):
            whole = line.step == WHOLE
            parts = ("", "", "", "") if whole else _parts(line)
            batch = "" if whole else f"{line.requests / max(line.executions, 1):.1f}"
            rows.append((str(in_flight), line.step, *parts, f"{line.total_ms:.2f}", batch))
        rows.append(
            (
                str(in_flight),
                "client and network",
                *[""] * 4,
                f"{outside(record, in_flight):.2f}",
                "",
            )
        )
    headings = ("in flight", "step", "queue", "input", "infer", "output", "together", "batch")
    return Table(
        "Where the time goes, milliseconds for each request",
        headings,
        tuple(rows),
        "Triton's statistics. `whole` is the entry point with all its steps, `encoders` the "
        "process that tokenises (text_tokenizer), decodes (image_decoder) and encodes; batch: "
        "requests answered by one execution. A request alone has text and picture read side by "
        "side.",
        words=(0, 1),
    )


def _parts(line: StepTime) -> tuple[str, ...]:
    values = (line.queue_ms, line.input_ms, line.infer_ms, line.output_ms)
    return tuple(f"{value:.2f}" for value in values)


def mean_steps(record: RunRecord, in_flight: int) -> list[StepTime]:
    """Every step's means over all repeats of one load."""
    found = []
    lines = [line for line in record.steps if line.in_flight == in_flight]
    for step in dict.fromkeys(line.step for line in lines):
        same = [line for line in lines if line.step == step]
        requests = sum(line.requests for line in same)
        means = {
            field: sum(getattr(line, field) * line.requests for line in same) / requests
            for field in ("queue_ms", "input_ms", "infer_ms", "output_ms")
        }
        executions = sum(line.executions for line in same)
        found.append(
            StepTime(
                in_flight=in_flight, step=step, requests=requests, executions=executions, **means
            )
        )
    return found


def outside(record: RunRecord, in_flight: int) -> float:
    """Milliseconds of a request outside of Triton: the client, and the way there and back."""
    seen = [
        line.latency.mean
        for line in record.measurements
        if line.contender == TRITIUM
        and line.tool == "driver"
        and line.in_flight == in_flight
        and line.latency is not None
    ]
    whole = [line for line in mean_steps(record, in_flight) if line.step == WHOLE]
    if not seen or not whole:
        return 0.0
    return max(statistics.fmean(seen) - whole[0].total_ms, 0.0)


def fair(record: RunRecord) -> Table:
    """Whether all did the same work."""
    rows = tuple(
        (
            record.contenders.get(line.contender, line.contender),
            str(line.items),
            str(line.differ),
            "" if line.accuracy is None else f"{line.accuracy:.1%}",
        )
        for line in record.fairness
    )
    headings = ("", "held-out items", "labels unlike PyTorch's", "accuracy")
    return Table("The same answers", headings, rows)


def generators(record: RunRecord) -> Table:
    """What asking cost, in cores: it came out of the same machine."""
    rows = []
    for contender, title in record.contenders.items():
        for tool in ("driver", "perf_analyzer"):
            lines = [
                line
                for line in record.measurements
                if line.contender == contender and line.tool == tool and line.load != "peak"
            ]
            if lines:
                cost = statistics.median(line.generator_cpu for line in lines)
                server = statistics.median(line.server_cpu for line in lines)
                rows.append((title, TOOLS[lines[0].tool], f"{cost:.2f}", f"{server:.2f}"))
    headings = ("", "asked by", "load generator", "server")
    return Table("Cores kept busy", headings, tuple(rows), "Medians over all loads.", words=(0, 1))


def _ratio(ratio: Ratio | None) -> str:
    return "" if ratio is None else str(ratio)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    middle = statistics.median(values)
    if len(values) == 1:
        return f"{middle:.1f}"
    return f"{middle:.1f} ({min(values):.1f} to {max(values):.1f})"
