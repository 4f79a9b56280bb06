"""Capacity as tables, lines and pictures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tritium_benchmarks.capacity.balancing import policy_of
from tritium_benchmarks.capacity.plan import Plan
from tritium_benchmarks.capacity.record import ReplicaRecord
from tritium_benchmarks.capacity.scenarios import Tail
from tritium_benchmarks.capacity.simulation import Outcome
from tritium_benchmarks.capacity.validated import BOUNDED, FIELDS, Compared, Error
from tritium_benchmarks.report.plots import COLOURS, MARKERS, figure, round_logarithmic
from tritium_benchmarks.report.tables import Table

MOST_SHOWN_MS = 2000
"""Beyond it a line of the picture ends: how late hardly matters any more."""


def batches(record: ReplicaRecord) -> Table:
    """What the batches of one server took."""
    rows = tuple(
        (str(line.in_flight), str(line.batch), str(line.count), f"{line.mean_ms:.1f}")
        for line in record.service
    )
    return Table(f"Batches of {record.component}", ("in flight", "batch", "times", "ms"), rows)


def sweep(record: ReplicaRecord) -> Table:
    """One server over the rate that it was offered."""
    rows = []
    for place in record.places:
        waits = [getattr(place.latency, field, None) for field in FIELDS]
        told = ["" if value is None else f"{value:.0f}" for value in waits]
        failed = str(sum(place.failures.values()))
        rows.append((f"{place.rate:.0f}", f"{place.per_second:.1f}", *told, failed))
    headings = ("offered/s", "answers/s", "p50, ms", "p95, ms", "p99, ms", "failed")
    return Table("Poisson arrivals", headings, tuple(rows))


def plan_table(plan: Plan) -> Table:
    """What callers will see, in three states."""
    wanted = plan.wanted
    states = [("all zones", plan.whole)]
    if wanted.zones > 1:
        states.append(("one zone lost", plan.lost))
    states.append((f"{states[-1][0]}, {wanted.headroom:.0%} more load", plan.grown))
    rows = tuple((name, *_figures(outcome)) for name, outcome in states)
    title = (
        f"{wanted.rps:,.0f} requests/s with p99 under {wanted.p99_ms:g} ms: "
        f"{plan.replicas} replicas"
    )
    headings = ("", "busy", "p50, ms", "p95, ms", "p99, ms", "failed", "waiting", "wait, ms")
    return Table(title, headings, rows)


def _figures(outcome: Outcome) -> tuple[str, ...]:
    return (
        f"{outcome.utilisation:.0%}", f"{outcome.p50_ms:.0f}", f"{outcome.p95_ms:.0f}",
        f"{outcome.p99_ms:.0f}", f"{outcome.failed:.2%}", f"{outcome.queued:.2g}",
        f"{outcome.queue_ms:.1f}",
    )  # fmt: skip


def plan_lines(plan: Plan, measured: str, error: Error | None) -> list[str]:
    """What to order, what to alert on, and how far to trust it."""
    wanted = plan.wanted
    zones = f", {plan.per_zone} in each of {wanted.zones} zones" if wanted.zones > 1 else ""
    memory = plan.memory_gib
    lines = [
        f"replicas: {plan.replicas}{zones}; {policy_of(wanted.policy.name).title}",
        f"cores: {plan.cores:g}" + (f"; GPUs: {plan.gpus}" if plan.gpus else ""),
        "memory: not measured (`tritium bench replica` does, or give --memory-mib)"
        if memory is None
        else f"memory: {memory:.0f} GiB ({plan.replica.memory_mib:.0f} MiB each)",
        f"autoscaler: add replicas above {plan.queued_target:.2g} waiting requests on each "
        f"(the chart's autoscaling.queuedRequests); alert above {plan.queue_alert_ms:.1f} ms in "
        "the queue",
        f"one server: {measured}",
    ]
    if wanted.margin:
        lines.insert(
            1,
            f"aim: p99 of {wanted.aim_ms:.0f} ms simulated, {wanted.margin:.0%} below the bound, "
            "as a server that computes was slower than simulated by up to so much (--margin)",
        )
    if wanted.zones > 1:
        lines[0] += "; the others carry everything when one zone is lost"
    lines.append("simulated, not measured; " + ("" if error is None else str(error)))
    return [line.rstrip("; ") for line in lines]


def plan_json(plan: Plan, measured: str, error: Error | None) -> dict[str, Any]:
    """The same for programs."""
    wanted = plan.wanted

    def state(outcome: Outcome) -> dict[str, float]:
        names = ("p50_ms", "p95_ms", "p99_ms", "failed", "utilisation", "queued", "queue_ms")
        return {name: round(getattr(outcome, name), 4) for name in names}

    return {
        "rps": wanted.rps,
        "bound_p99_ms": wanted.p99_ms,
        "margin": wanted.margin,
        "policy": wanted.policy.name,
        "burstiness": wanted.burstiness,
        "headroom": wanted.headroom,
        "zones": wanted.zones,
        "replicas": plan.replicas,
        "replicas_per_zone": plan.per_zone,
        "cores": plan.cores,
        "gpus": plan.gpus,
        "memory_gib": None if plan.memory_gib is None else round(plan.memory_gib, 1),
        "all_zones": state(plan.whole),
        "one_zone_lost": state(plan.lost),
        "one_zone_lost_and_headroom": state(plan.grown),
        "autoscaling_queued_requests": round(plan.queued_target, 4),
        "alert_queue_ms": round(plan.queue_alert_ms, 2),
        "measured": measured,
        "simulator_error": None if error is None else asdict(error),
    }


def validation_table(places: Sequence[Compared]) -> Table:
    """Measured and simulated, side by side."""
    rows = []
    for place in places:
        cells = [str(place.servers), place.what, f"{place.real.rate:.0f}"]
        for field in FIELDS:
            error = place.error(field)
            if error is None or place.real.latency is None:
                cells.append("no answer")
                continue
            real, simulated = getattr(place.real.latency, field), getattr(place, f"{field}_ms")
            cells.append(f"{real:.0f} / {simulated:.0f} ({100 * error:+.0f} %)")
        cells.append(f"{place.real.per_second:.1f} / {place.per_second:.1f}")
        cells.append(f"{place.real_failed:.1%} / {place.failed:.1%}")
        rows.append(tuple(cells))
    headings = (
        "servers", "load", "offered/s", "p50, ms", "p95, ms", "p99, ms", "answers/s", "failed",
    )  # fmt: skip
    return Table("Measured / simulated", headings, tuple(rows), words=(1,))


def bounded(places: Sequence[Compared]) -> list[Compared]:
    """The loads on queues with an end."""
    return [place for place in places if BOUNDED in place.what]


def troubles_table(found: Sequence[Tail]) -> Table:
    """A row for each trouble, a column for each policy: p99, and what failed."""
    policies = list(dict.fromkeys(tail.policy for tail in found))
    rows = []
    for what in dict.fromkeys(tail.what for tail in found):
        mine = {tail.policy: tail for tail in found if tail.what == what}
        best = min(tail.p99_ms for tail in mine.values())
        cells = []
        for name in policies:
            tail = mine[name]
            cell = f"{tail.p99_ms:.0f}" + (f" ({tail.failed:.2%})" if tail.failed else "")
            cells.append(f"**{cell}**" if tail.p99_ms == best else cell)
        rows.append((what, *cells))
    return Table("p99 by policy", ("p99, ms (failed)", *policies), tuple(rows))


def sizes_table(found: Sequence[Tail]) -> Table:
    """Ever larger fleets."""
    rows = tuple(
        (
            f"{tail.replicas:,}",
            tail.policy,
            f"{tail.calls:,}",
            f"{tail.p50_ms:.0f}",
            f"{tail.p99_ms:.0f}",
            f"{tail.hedged:.1%}",
            f"{tail.took_s:.0f}",
        )
        for tail in found
    )
    headings = ("replicas", "policy", "requests", "p50, ms", "p99, ms", "hedged", "run time, s")
    return Table("Fleets of all sizes", headings, rows, words=(1,))


def tail_picture(found: Sequence[Tail]) -> str:
    """p99 over load by policy, as SVG."""
    with figure() as ((axes,), file):
        for index, name in enumerate(dict.fromkeys(tail.policy for tail in found)):
            mine = [tail for tail in found if tail.policy == name and tail.p99_ms < MOST_SHOWN_MS]
            axes.plot(
                [100 * tail.load for tail in mine],
                [tail.p99_ms for tail in mine],
                label=name,
                color=COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                markersize=4,
                linestyle="--" if policy_of(name).hedging else "-",
            )
        round_logarithmic(axes, axes.yaxis, "y")
        axes.set_xlabel(f"load, % of what {found[0].replicas} replicas can answer")
        axes.set_ylabel("p99, milliseconds")
        handles, labels = axes.get_legend_handles_labels()
        whole = axes.get_figure()
        if whole is not None:
            whole.legend(handles, labels, loc="outside lower center", ncols=2)
    return file.getvalue()


def median_load(places: Sequence[Compared]) -> float:
    """Of the machine while it was measured."""
    return statistics.median(place.real.load_average for place in places)
