"""The verbs of this room: `tritium bench`."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritium_builders.errors import needs

if TYPE_CHECKING:
    from types import FrameType

    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from tritium_benchmarks.compare import Change
    from tritium_benchmarks.records import RunRecord
    from tritium_benchmarks.report.tables import Table as ReportTable
    from tritium_benchmarks.session import OnStep
    from tritium_benchmarks.tune.run import OnTrial
    from tritium_benchmarks.tune.search import Score

RUN_EPILOG = """
Examples:

  tritium bench run openmoji

  tritium bench run openmoji --workload poisson --seconds 20

  tritium bench run openmoji --against litserve-onnxruntime --against pytriton --limit

  tritium bench run openmoji --url localhost:8001

Exit codes: 0 measured; 1 not measured, or interrupted (what was measured is kept); 2 wrong usage.
"""
COMPARE_EPILOG = """
Examples:

  tritium bench compare bench-results/before bench-results/after
"""
REPORT_EPILOG = """
Examples:

  tritium bench report bench-results/openmoji-saturate
"""
TUNE_EPILOG = """
Examples:

  tritium bench tune openmoji --p99-ms 200

  tritium bench tune openmoji --budget 600 --in-flight 8 --in-flight 32 --out openmoji.tuning.toml

Then: tritium serve --tuning openmoji.tuning.toml
"""
CURVES_EPILOG = """
Examples:

  tritium bench curves openmoji

  tritium bench curves openmoji --axis concurrency --axis words --seconds 5
"""
INSTALL_EPILOG = """
Examples:

  tritium bench install
"""

AppArgument = Annotated[str, typer.Argument(help="The app, with a live release in the repository.")]
WorkloadOption = Annotated[
    str, typer.Option(help="A name, as `single` or `poisson`, or a .toml file.")
]
RepositoryOption = Annotated[Path, typer.Option(help="Model repository.")]
BundleOption = Annotated[Path | None, typer.Option(help="The app's bundle (default: bundles/APP).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add this room's commands to the `tritium` program."""
    from tritium_benchmarks.capacity import commands as capacity

    bench = typer.Typer(
        name="bench",
        help="How fast is it, where does the time go, what should run, and how many of it.",
        no_args_is_help=True,
    )
    bench.command("install", epilog=INSTALL_EPILOG)(install_command)
    bench.command("run", epilog=RUN_EPILOG)(run_command)
    bench.command("report", epilog=REPORT_EPILOG)(report_command)
    bench.command("tune", epilog=TUNE_EPILOG)(tune_command)
    bench.command("curves", epilog=CURVES_EPILOG)(curves_command)
    bench.command("compare", epilog=COMPARE_EPILOG)(compare_command)
    capacity.add_to(bench)
    app.add_typer(bench)


def install_command() -> None:
    """Bring NVIDIA's perf_analyzer from PyPI into the user's cache, and check its hash."""
    from tritium_benchmarks.perf_analyzer.install import VERSION, install_perf_analyzer

    installed = install_perf_analyzer()
    typer.echo(f"perf_analyzer {VERSION}: {installed.program}")


def run_command(
    app: AppArgument,
    workload: WorkloadOption = "saturate",
    against: Annotated[
        list[str] | None,
        typer.Option(help="A baseline to measure beside it, or `all`; may be repeated."),
    ] = None,
    limit: Annotated[
        bool, typer.Option("--limit", help="Measure the same work with no server, too.")
    ] = False,
    repository: RepositoryOption = Path("model_repository"),
    bundle: BundleOption = None,
    url: Annotated[
        str | None, typer.Option(help="host:port of a server that runs; else one is started.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each measurement.")] = 5.0,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of everybody.")] = 4,
    perf_analyzer: Annotated[
        bool, typer.Option("--perf-analyzer/--no-perf-analyzer", help="Ask with it, too.")
    ] = True,
    held_out: Annotated[
        int, typer.Option(min=1, help="Held-out items that everybody must answer alike.")
    ] = 200,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results (default: bench-results/...).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure an app: throughput, latency, and where the time goes; alone or beside baselines.

    Every repeat measures everybody in turn. The results are kept after each measurement, so that an
    interrupted run can be read.
    """
    with needs("bench"):
        from tritium_benchmarks.contenders import chosen
        from tritium_benchmarks.planning import Asked, planned
        from tritium_benchmarks.report.write import write_report
        from tritium_benchmarks.session import run
        from tritium_benchmarks.workload import load_workload

    loaded = load_workload(workload)
    asked = Asked(
        app, loaded, chosen(against or []), repository, bundle, url,
        seconds=seconds, repeats=repeats, limit=limit, perf_analyzer=perf_analyzer,
        held_out=held_out,
    )  # fmt: skip
    folder = out or Path("bench-results") / f"{app}-{loaded.name}"
    with stopping(), planned(asked) as plan:
        try:
            with progress(as_json) as tell:
                record = run(plan, folder, tell)
        except KeyboardInterrupt:
            _keep_what_there_is(folder)
            raise typer.Exit(1) from None
    pages = write_report(record, folder)
    if as_json:
        sys.stdout.write(record.model_dump_json() + "\n")
        return
    _show(record)
    typer.echo(f"report: {pages[1]}")


def report_command(
    folder: Annotated[Path, typer.Argument(help="What `tritium bench run --out` wrote.")],
) -> None:
    """Write the report of a run again, from its measurements."""
    with needs("bench"):
        from tritium_benchmarks.records import read_record
        from tritium_benchmarks.report.write import write_report

    place = folder if folder.is_dir() else folder.parent
    for page in write_report(read_record(folder), place):
        typer.echo(str(page))


def compare_command(
    old: Annotated[Path, typer.Argument(help="Folder of the earlier run.")],
    new: Annotated[Path, typer.Argument(help="Folder of the later run.")],
    as_json: JsonOption = False,
) -> None:
    """Say what changed between two runs, and whether it is more than their noise."""
    with needs("bench"):
        from tritium_benchmarks.compare import compare, differences
        from tritium_benchmarks.records import read_record

    before, after = read_record(old), read_record(new)
    changes = compare(before, after)
    machines = differences(before, after)
    if as_json:
        document = {
            "changes": [{**asdict(change), "verdict": change.verdict} for change in changes],
            "machines_differ": machines,
        }
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
        return
    _show_changes(changes, after)
    for line in machines:
        typer.echo(f"other machine: {line}", err=True)


def tune_command(
    app: AppArgument,
    p99_ms: Annotated[
        float | None, typer.Option(min=0.1, help="Bound of p99, milliseconds (default: none).")
    ] = None,
    budget: Annotated[float, typer.Option(min=1, help="Seconds for everything.")] = 300.0,
    workload: WorkloadOption = "saturate",
    in_flight: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Loads that count (default: 4, 16 and 32); may be repeated."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each measurement.")] = 3.0,
    repository: RepositoryOption = Path("model_repository"),
    bundle: BundleOption = None,
    out: Annotated[
        Path | None, typer.Option(help="The tuning file (default: APP.tuning.toml).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Search how an app should run on this machine: instances, streams, threads, cores, batches.

    The setting that answers most per second with p99 under the bound wins; it is then measured
    against the release as it is, in turns, and written as a file for `tritium serve --tuning`.
    """
    with needs("bench"):
        from tritium_benchmarks.tune.run import TuneOptions, tune
        from tritium_benchmarks.workload import load_workload

    options = TuneOptions(
        app, load_workload(workload), repository, bundle,
        p99_ms=p99_ms, budget_s=budget, seconds=seconds, in_flight=tuple(in_flight or (4, 16, 32)),
    )  # fmt: skip
    path = out or Path(f"{app}.tuning.toml")
    with stopping(), _trials(as_json, budget) as on_trial:
        found = tune(options, path, on_trial)
    if as_json:
        sys.stdout.write(json.dumps(asdict(found) | {"pays": found.pays}, indent=1) + "\n")
        return
    best = found.best
    typer.echo(
        f"best: {best.setting}: {best.per_second:.1f}/s, p99 {best.p99_ms:.0f} ms, ", nl=False
    )
    typer.echo(f"{best.in_flight} in flight")
    if not best.within:
        typer.echo(f"no setting kept p99 under {p99_ms:g} ms; this one came closest", err=True)
    if found.pays:
        typer.echo(f"{found.gain} times the release as it is; written to {path}")
    else:
        typer.echo(
            f"not better than the release as it is by more than noise ({found.gain or 'equal'}); "
            f"{path} holds the release's own setting"
        )


def curves_command(
    app: AppArgument,
    axis: Annotated[
        list[str] | None,
        typer.Option(
            help="concurrency, batch, picture, words, text, cores (default: all); may be repeated."
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each place.")] = 2.0,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of every place.")] = 3,
    repository: RepositoryOption = Path("model_repository"),
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results (default: bench-results/...).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how the cost grows: with load, batches, picture sizes, text lengths and cores."""
    with needs("bench"):
        from tritium_benchmarks.curves.axes import AXES
        from tritium_benchmarks.curves.records import read_curves, write_curves
        from tritium_benchmarks.curves.run import CurveOptions, measure
        from tritium_benchmarks.curves.show import measured, picture, table

    options = CurveOptions(app, tuple(axis or AXES), repository, seconds=seconds, repeats=repeats)
    folder = out or Path("bench-results") / f"{app}-curves"
    with stopping(), progress(as_json) as tell:
        try:
            curves = measure(options, tell, partial(write_curves, folder=folder))
        except KeyboardInterrupt:
            kept = len(read_curves(folder).places)
            typer.echo(f"interrupted; {kept} places are kept in {folder}", err=True)
            raise typer.Exit(1) from None
    for name in measured(curves):
        (folder / f"{name}.svg").write_text(picture(curves, name), "utf-8")
    if as_json:
        sys.stdout.write(curves.model_dump_json() + "\n")
        return
    print_tables([table(curves, name) for name in measured(curves)])
    typer.echo(f"figures and pictures: {folder}")


@contextmanager
def _trials(as_json: bool, budget: float) -> Iterator[OnTrial]:
    """A bar over the budget on a terminal, and a line for each trial."""
    import time

    with _bar(as_json) as (bar, console):
        task = bar.add_task("starting", total=round(budget))
        began = time.monotonic()

        def tell(about: str, score: Score) -> None:
            bar.update(task, description=about, completed=round(time.monotonic() - began))
            if not as_json:
                mark = "" if score.within else "  over the bound"
                console.print(
                    f"{score.per_second:7.1f}/s  p99 {score.p99_ms:6.0f} ms  "
                    f"{score.in_flight:3} in flight  {score.setting}{mark}",
                    soft_wrap=True,
                )

        yield tell


@contextmanager
def progress(as_json: bool) -> Iterator[OnStep]:
    """A bar on a terminal; a line for each step elsewhere; nothing beside JSON."""
    with _bar(as_json) as (bar, console):
        task = bar.add_task("starting", total=None)

        def tell(text: str, done: int, total: int) -> None:
            bar.update(task, description=text, completed=done, total=total)
            if not as_json and not console.is_terminal:
                console.print(f"{done + 1}/{total} {text}", markup=False)

        yield tell


@contextmanager
def _bar(as_json: bool) -> Iterator[tuple[Progress, Console]]:
    """A bar on a terminal, and the console that it is drawn on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    hidden = as_json or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        yield bar, console


@contextmanager
def stopping() -> Iterator[None]:
    """SIGTERM and SIGHUP end a measurement as Ctrl-C does.

    Contenders run in sessions of their own: whoever died of a signal would leave them behind. Under
    asyncio, Ctrl-C cancels the task: an exception could come up inside a callback of gRPC's, which
    drops it, and the measurement would go on.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        ctrl_c = signal.getsignal(signal.SIGINT)
        if not callable(ctrl_c):  # ignored: started with `nohup` or `&`
            raise KeyboardInterrupt
        ctrl_c(number, frame)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _keep_what_there_is(folder: Path) -> None:
    from tritium_benchmarks.records import read_record
    from tritium_benchmarks.report.write import write_report

    record = read_record(folder)
    page = write_report(record, folder)[1]
    typer.echo(
        f"interrupted; {len(record.measurements)} measurements are kept, see {page}", err=True
    )


def _show(record: RunRecord) -> None:
    """The headline and the tables that people want first."""
    from tritium_benchmarks.report.tables import comparison, latency, throughput
    from tritium_benchmarks.report.write import verdict

    print_tables([throughput(record), latency(record), comparison(record)])
    for line in verdict(record):
        typer.echo(line)


def print_tables(tables: Sequence[ReportTable]) -> None:
    """Print those that have rows."""
    from rich.console import Console

    console = Console(highlight=False)
    for table in tables:
        if table.rows:
            console.print(_table(table.title, table.headings, table.rows))


def _show_changes(changes: Sequence[Change], record: RunRecord) -> None:
    from rich.console import Console

    def change(ratio: float | None) -> str:
        return "" if ratio is None else f"{(ratio - 1) * 100:+.1f} %"

    rows = [
        (
            record.contenders.get(line.contender, line.contender),
            line.tool,
            line.load,
            f"{line.old:.1f}",
            f"{line.new:.1f}",
            f"{change(line.throughput.value)} "
            f"({change(line.throughput.low)} to {change(line.throughput.high)})",
            change(line.p50),
            change(line.p99),
            line.verdict,
        )
        for line in changes
    ]
    headings = ("", "asked by", "load", "old /s", "new /s", "change", "p50", "p99", "")
    Console(highlight=False).print(_table("Old and new", headings, rows))


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return table
