"""Validate the simulator, plan for 2,000 requests/s, compare policies: `make capacity-table`.

    python -m tritium_benchmarks.capacity.table benchmarks/results --curve benchmarks/results/curves

Writes capacity.json (the validation, which plans quote), capacity.md, capacity_policies.json (the
simulations) and the page's places.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tritium_benchmarks.capacity.balancing import policy_of
from tritium_benchmarks.capacity.fit import read_server
from tritium_benchmarks.capacity.measure import MeasureOptions, measure_replica, served
from tritium_benchmarks.capacity.plan import MARGIN, Plan, Wanted, make_plan
from tritium_benchmarks.capacity.record import ReplicaRecord
from tritium_benchmarks.capacity.scenarios import Tail, sizes, tails, troubled
from tritium_benchmarks.capacity.show import (
    bounded,
    median_load,
    plan_lines,
    plan_table,
    sizes_table,
    tail_picture,
    troubles_table,
    validation_table,
)
from tritium_benchmarks.capacity.validate import ValidateOptions, compare_alone, validate
from tritium_benchmarks.capacity.validated import Validation, error_of
from tritium_benchmarks.manifest import make_manifest
from tritium_benchmarks.records import Kept, keep, read_kept
from tritium_benchmarks.report.pages import fill_places
from tritium_benchmarks.report.tables import Table

RPS, P99_MS = 2000.0, 80.0
PLANNED = ("round-robin", "round-robin+hedging", "envoy")
VALIDATION, POLICIES, PAGE = "capacity.json", "capacity_policies.json", "capacity.md"
PICTURE = "capacity-policies.svg"


class Planned(Kept):
    """A plan as it is shown."""

    policy: str
    burstiness: float
    replicas: int
    cores: float
    memory_gib: float | None
    utilisation: float
    p99_ms: float
    lost_p99_ms: float


class Policies(Kept):
    """What was simulated."""

    measured: str
    rps: float
    p99_ms: float
    headings: tuple[str, ...]
    """Of the plan's table."""
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[str, ...]
    plans: tuple[Planned, ...]
    tails: tuple[Tail, ...]
    troubles: tuple[Tail, ...]
    sizes: tuple[Tail, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, simulate, and write."""
    parser = argparse.ArgumentParser(description="Validate the simulator, and plan.")
    parser.add_argument("results", type=Path)
    parser.add_argument("--curve", type=Path, required=True, help="of the server that is planned")
    parser.add_argument("--repository", type=Path, help="with the demo app; without it it rests")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--page", type=Path, help="whose places are filled")
    parser.add_argument("--keep-validation", action="store_true", help="simulate again, only")
    parser.add_argument("--show", action="store_true", help="fill the page again, only")
    given = parser.parse_args(arguments)
    if given.keep_validation or given.show:
        validation = read_kept(Validation, given.results / VALIDATION, "make capacity-table")
    else:
        validation = _validated(given.repository, given.seconds)
        keep(validation, given.results / VALIDATION)
    if given.show:
        policies = read_kept(Policies, given.results / POLICIES, "make capacity-table")
    else:
        policies = _simulated(given.curve, validation)
        keep(policies, given.results / POLICIES)
    shown = places(validation, policies)
    (given.results / PAGE).write_text(
        "".join(f"## {name}\n\n{text.strip()}\n\n" for name, text in shown.items()), "utf-8"
    )
    if given.page is not None:
        pictures = given.page.parent / "images"
        (pictures / PICTURE).write_text(tail_picture(policies.tails), "utf-8")
        page = given.page.read_text("utf-8")
        given.page.write_text(fill_places(page, "capacity", shown), "utf-8")


def places(validation: Validation, policies: Policies) -> dict[str, str]:
    """What the page shows: name -> Markdown."""
    every = validation.places
    plain = [place for place in every if place not in bounded(every)]
    manifest = validation.manifest
    plan_rows = tuple(
        (
            policy_of(one.policy).title, f"{one.burstiness:g}", str(one.replicas),
            f"{one.cores:g}", "" if one.memory_gib is None else f"{one.memory_gib:.0f}",
            f"{one.utilisation:.0%}", f"{one.p99_ms:.0f}", f"{one.lost_p99_ms:.0f}",
        )
        for one in policies.plans
    )  # fmt: skip
    headings = (
        "balancing", "burstiness", "replicas", "cores", "memory, GiB", "busy", "p99, ms",
        "p99 with a zone lost, ms",
    )  # fmt: skip
    return {
        "machine": f"{manifest['processor']}, {manifest['cores']} cores, load average "
        f"{median_load(every):.1f}; {manifest['started'][:10]}.",
        "error": _wrapped(f"{str(error_of(every))[0].upper()}{str(error_of(every))[1:]}."),
        "validation": validation_table(plain).to_markdown(),
        "piles": _wrapped(str(validation.piles)),
        "bounded": validation_table(bounded(every)).to_markdown(),
        "demo": validation_table(validation.demo_places).to_markdown(),
        "plan": Table("", policies.headings, policies.rows).to_markdown()
        + "\n"
        + "".join(_wrapped(line, "- ") + "\n" for line in policies.lines),
        "plans": Table("", headings, plan_rows).to_markdown(),
        "troubles": troubles_table(policies.troubles).to_markdown(),
        "sizes": sizes_table(policies.sizes).to_markdown(),
    }


def _wrapped(text: str, first: str = "") -> str:
    """As the lines of a page are."""
    return textwrap.fill(
        text, 120, initial_indent=first, subsequent_indent=" " * len(first), break_long_words=False
    )


def _validated(repository: Path | None, seconds: float) -> Validation:
    found = validate(ValidateOptions(seconds=seconds), _step)
    demo: ReplicaRecord | None = None
    if repository is not None:
        with served("openmoji", repository) as target:
            demo = measure_replica(target, MeasureOptions(seconds / 2), _step)
    return Validation(
        manifest=make_manifest(repository, "openmoji"),
        sleeper=found.sleeper,
        places=found.places,
        piles=found.piles,
        demo=demo,
        demo_places=() if demo is None else tuple(compare_alone(demo)),
    )


def _simulated(curve: Path, validation: Validation) -> Policies:
    replica, measured = read_server(curve)
    if replica.memory_mib is None and validation.demo is not None:
        replica = replace(replica, memory_mib=validation.demo.memory_mib)
    plans: list[Plan] = []
    for burstiness in (1.0, 2.0):
        for name in PLANNED:
            wanted = Wanted(
                RPS, P99_MS, policy=policy_of(name), burstiness=burstiness, margin=MARGIN
            )
            plans.append(make_plan(wanted, replica, _told))
    first = plan_table(plans[0])
    return Policies(
        measured=measured,
        rps=RPS,
        p99_ms=P99_MS,
        headings=first.headings,
        rows=first.rows,
        lines=tuple(plan_lines(plans[0], measured, error_of(validation.places))),
        plans=tuple(
            Planned(
                policy=plan.wanted.policy.name,
                burstiness=plan.wanted.burstiness,
                replicas=plan.replicas,
                cores=plan.cores,
                memory_gib=plan.memory_gib,
                utilisation=plan.whole.utilisation,
                p99_ms=plan.whole.p99_ms,
                lost_p99_ms=plan.lost.p99_ms,
            )
            for plan in plans
        ),
        tails=tuple(tails(replica, on_try=_told)),
        troubles=tuple(troubled(replica, on_try=_told)),
        sizes=tuple(sizes(replica, on_try=_told)),
    )


def _step(text: str, done: int, total: int) -> None:
    print(f"{done + 1}/{total} {text}", file=sys.stderr, flush=True)  # noqa: T201 - minutes


def _told(text: str, share: float) -> None:
    if share == 0.0:
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - minutes


if __name__ == "__main__":
    main()
