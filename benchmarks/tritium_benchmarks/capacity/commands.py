"""The verbs `tritium bench replica` and `tritium bench plan`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritium_benchmarks.commands import (
    AppArgument,
    JsonOption,
    RepositoryOption,
    print_tables,
    progress,
    stopping,
)
from tritium_builders.errors import needs

if TYPE_CHECKING:
    from tritium_benchmarks.capacity.replica import Replica

REPLICA_EPILOG = """
Examples:

  tritium bench replica openmoji

Then: tritium bench plan --rps 2000 --p99-ms 80
"""
PLAN_EPILOG = """
Examples:

  tritium bench plan --rps 2000 --p99-ms 80

  tritium bench plan --rps 2000 --p99-ms 80 --policy envoy --burstiness 3 --picture tail.svg

  tritium bench plan --rps 2000 --p99-ms 80 --curve benchmarks/results/curves --json

Exit codes: 0 planned; 1 no number of servers would do it, or nothing was measured; 2 wrong usage.
"""


def add_to(bench: typer.Typer) -> None:
    """Add these verbs to `tritium bench`."""
    bench.command("replica", epilog=REPLICA_EPILOG)(replica_command)
    bench.command("plan", epilog=PLAN_EPILOG)(plan_command)


def replica_command(
    app: AppArgument,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each load.")] = 4.0,
    repository: RepositoryOption = Path("model_repository"),
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results (default: bench-results/...).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure one server for `plan`: what batches take, and latency over the offered rate."""
    with needs("bench"):
        from tritium_benchmarks.capacity.measure import MeasureOptions, measure_replica, served
        from tritium_benchmarks.capacity.record import write_replica
        from tritium_benchmarks.capacity.show import batches, sweep

    folder = out or Path("bench-results") / f"{app}-replica"
    with stopping(), served(app, repository) as target, progress(as_json) as tell:
        record = measure_replica(target, MeasureOptions(seconds), tell)
    path = write_replica(record, folder)
    if as_json:
        sys.stdout.write(record.model_dump_json() + "\n")
        return
    print_tables([batches(record), sweep(record)])
    typer.echo(f"figures: {path}")


def plan_command(
    rps: Annotated[float, typer.Option(help="Requests per second in the busiest hour.")],
    p99_ms: Annotated[float, typer.Option(help="Bound of p99, milliseconds.")],
    app: Annotated[str | None, typer.Option(help="Whose curve (default: the newest).")] = None,
    curve: Annotated[
        Path | None,
        typer.Option(
            help="What `bench replica` or `bench curves` wrote (default: the newest of "
            "bench-results; in a checkout else the demo app's)."
        ),
    ] = None,
    zones: Annotated[int, typer.Option(help="Zones, of which one may be lost; 1 for none.")] = 3,
    burstiness: Annotated[
        float, typer.Option(help="Rate within bursts over the mean; they are a tenth of the time.")
    ] = 1.0,
    headroom: Annotated[float, typer.Option(help="What the load may grow: 0.1 for 10 %.")] = 0.1,
    margin: Annotated[
        float | None,
        typer.Option(
            help="Share of the bound that the simulation leaves free (default: 0.33, as a server "
            "that computes was up to so much slower than simulated)."
        ),
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            help="Who takes a request: round-robin (the SDK), random, least-outstanding, "
            "two-choices, envoy; each also with +hedging."
        ),
    ] = "round-robin",
    memory_mib: Annotated[
        float | None, typer.Option(min=1, help="Of one replica, where the curve does not say.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw p99 over load for every policy (.svg).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Turn one server's measured curve into replicas, cores and memory for a load.

    The fewest replicas are searched that keep p99 under the bound with one zone lost and the
    headroom used up, in a simulation of queues, batches and the chosen balancing.
    """
    with needs("bench"):
        from dataclasses import replace

        from tritium_benchmarks.capacity.balancing import policy_of
        from tritium_benchmarks.capacity.fit import read_server
        from tritium_benchmarks.capacity.plan import MARGIN, Wanted, make_plan
        from tritium_benchmarks.capacity.show import plan_json, plan_lines, plan_table
        from tritium_benchmarks.capacity.validated import known_error

    wanted = Wanted(
        rps, p99_ms, zones=zones, burstiness=burstiness, headroom=headroom,
        margin=MARGIN if margin is None else margin, policy=policy_of(policy), seed=seed,
    )  # fmt: skip
    replica, measured = read_server(curve or _newest(app))
    if memory_mib is not None:
        replica = replace(replica, memory_mib=memory_mib)
    with stopping(), _simulating(as_json) as tell:
        plan = make_plan(wanted, replica, tell)
        if picture is not None:
            _draw(replica, plan.replicas, picture, tell)
    error = known_error()
    if as_json:
        sys.stdout.write(json.dumps(plan_json(plan, measured, error), indent=1) + "\n")
        return
    print_tables([plan_table(plan)])
    for line in plan_lines(plan, measured, error):
        typer.echo(line)


def _newest(app: str | None) -> Path:
    """The curve that counts where none was given."""
    from tritium_benchmarks.capacity.record import newest_replica
    from tritium_benchmarks.curves.records import RECORD
    from tritium_benchmarks.errors import PlanError

    try:
        return newest_replica([Path("bench-results")], app)
    except PlanError:
        committed = Path("benchmarks/results/curves") / RECORD
        if app in (None, "openmoji") and committed.is_file():
            return committed
        raise


def _draw(
    replica: Replica, replicas: int, picture: Path, tell: Callable[[str, float], None]
) -> None:
    from tritium_benchmarks.capacity.scenarios import tails
    from tritium_benchmarks.capacity.show import tail_picture
    from tritium_benchmarks.errors import RecordError

    drawn = tail_picture(tails(replica, min(replicas, 200), on_try=tell))
    try:
        picture.write_text(drawn, "utf-8")
    except OSError as error:
        raise RecordError(
            f"{picture} cannot be written ({error.strerror}); give another --picture"
        ) from error


@contextmanager
def _simulating(as_json: bool) -> Iterator[Callable[[str, float], None]]:
    """A bar over each simulation."""
    with progress(as_json) as tell:
        last = ""

        def on_try(text: str, share: float) -> None:
            nonlocal last
            # A terminal has a bar; elsewhere a line for each simulation is enough.
            if text != last or sys.stderr.isatty():
                last = text
                tell(text, int(100 * share), 100)

        yield on_try
