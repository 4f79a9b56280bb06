"""`tritium train`, and `tritium data check`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritium_builders.errors import RecipeError, needs

if TYPE_CHECKING:
    from tritium_builders.bundle import Bundle
    from tritium_builders.data.card import DataCard

data_app = typer.Typer(name="data", help="Check your own data.", no_args_is_help=True)

Out = Annotated[
    Path | None,
    typer.Option(help="The bundle's folder. Default: what the recipe says.", show_default=False),
]
Compare = Annotated[
    str | None,
    typer.Option(
        metavar="STRATEGIES",
        help="Train these fusion strategies (names with commas, or all) and show them beside each "
        "other; write no bundle.",
        show_default=False,
    ),
]
TakeBest = Annotated[
    bool,
    typer.Option(
        "--take-best",
        help="With --compare: write the bundle of the one with the best validation accuracy.",
    ),
]
OutReport = Annotated[
    Path | None,
    typer.Option(help="With --compare: write the figures as JSON.", show_default=False),
]

From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="Train this bundle's head on, with the recipe's data and that of --data.",
        show_default=False,
    ),
]
NewData = Annotated[
    list[Path] | None,
    typer.Option(
        "--data",
        help="With --from: a manifest of new items; repeat it, those of earlier rounds first.",
        show_default=False,
    ),
]


def train_command(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.", show_default=False)],
    out: Out = None,
    reuse: Annotated[
        bool,
        typer.Option(
            "--reuse", help="Take the bundle that this recipe already made, of the same data."
        ),
    ] = False,
    cross_validate: Annotated[
        bool,
        typer.Option("--cross-validate", help="Hold every fold out in turn; write no bundle."),
    ] = False,
    compare: Compare = None,
    take_best: TakeBest = False,
    out_report: OutReport = None,
    previous: From = None,
    data: NewData = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report and the bundle's hash as JSON.")
    ] = False,
) -> None:
    """Train a fusion head, and the encoders that the recipe says, and write a bundle.

    Features of frozen encoders are computed once and kept in the user's cache folder; training
    again takes seconds and gives the same bundle. A training of encoders that was killed goes on
    where it was. A bundle that is already there is replaced.

    Examples:

        tritium train recipes/openmoji.toml

        tritium train recipes/openmoji.toml --out /tmp/try --json

        tritium train recipes/openmoji.toml --cross-validate

        tritium train recipes/openmoji.toml --compare concat,late,gated

        tritium train recipes/openmoji.toml --compare all --take-best

        tritium train recipes/openmoji.toml --from bundles/openmoji --data new.jsonl --out bundles/2
    """
    _check_round(previous, data, reuse=reuse, cross_validate=cross_validate, compare=compare)
    _check(compare, take_best, out_report, reuse=reuse, cross_validate=cross_validate, out=out)

    if compare is not None:
        _compare(recipe, compare, out=out, take_best=take_best, report=out_report, as_json=as_json)
    elif cross_validate:
        _cross_validate(recipe, as_json=as_json)
    elif previous is not None:
        _train_next(recipe, previous, data or [], out=out, as_json=as_json)
    else:
        _train(recipe, out=out, reuse=reuse, as_json=as_json)


def _train(recipe: Path, *, out: Path | None, reuse: bool, as_json: bool) -> None:
    """Train and write the bundle."""
    with needs("train"):
        from tritium_builders.training import run

    with line_by_line():
        bundle = run.train(recipe, out=out, reuse=reuse)
    _show_bundle(bundle, as_json)


def _train_next(
    recipe: Path, previous: Path, data: list[Path], *, out: Path | None, as_json: bool
) -> None:
    """Train a bundle on and write the next one."""
    with needs("train"):
        from tritium_builders.training.rounds.run import train_next

    with line_by_line():
        bundle = train_next(recipe, previous, data, out=out)
    _show_bundle(bundle, as_json)


def _check_round(
    previous: Path | None,
    data: list[Path] | None,
    *,
    reuse: bool,
    cross_validate: bool,
    compare: str | None,
) -> None:
    """Refuse options that contradict --from and --data.

    Raises:
        typer.BadParameter: naming them.
    """
    if (previous is None) != (not data):
        given, lacking = ("--data", "--from") if previous is None else ("--from", "--data")
        raise typer.BadParameter(f"{given} needs {lacking}")
    others = {"--reuse": reuse, "--cross-validate": cross_validate, "--compare": compare}
    for name, other in others.items():
        if previous is not None and other:
            raise typer.BadParameter(f"{name} does not go with --from")


def _show_bundle(bundle: Bundle, as_json: bool) -> None:
    from rich.console import Console

    from tritium_builders.data.card import render_card
    from tritium_builders.training import run
    from tritium_builders.training.report import TrainingReport, render_report
    from tritium_builders.training.task_report import TaskReport, render_task_report

    content = (bundle.folder / run.REPORT).read_bytes()
    if bundle.manifest.task == "classification":
        report: TrainingReport | TaskReport = TrainingReport.model_validate_json(content)
    else:
        report = TaskReport.model_validate_json(content)
    card = _card_of(bundle)
    if as_json:
        answer = {"bundle": str(bundle.folder), "hash": bundle.hash}
        data = {} if card is None else {"data_card": card.model_dump()}
        if (bundle.folder / run.ROUND).exists():
            data["round"] = json.loads((bundle.folder / run.ROUND).read_bytes())
        typer.echo(json.dumps({**answer, "report": report.model_dump(), **data}))
        return
    console = Console()
    if card is not None:
        console.print(render_card(card))
    if isinstance(report, TrainingReport):
        console.print(render_report(report))
    else:
        console.print(render_task_report(report))
    if (bundle.folder / run.ROUND).exists():
        from tritium_builders.training.rounds.record import RoundRecord, render_round

        content = (bundle.folder / run.ROUND).read_bytes()
        console.print(render_round(RoundRecord.model_validate_json(content)))
    console.print(f"Wrote {bundle.folder} (hash {bundle.hash[:12]}).", highlight=False)
    if (bundle.folder / run.PAGE).exists():  # a reused bundle may be older than pages
        console.print(f"Report: {bundle.folder / run.PAGE}", highlight=False, soft_wrap=True)
    console.print(f"Next: tritium build {bundle.folder}", highlight=False)


def _card_of(bundle: Bundle) -> DataCard | None:
    from tritium_builders.data.card import DataCard
    from tritium_builders.training.run import DATA_CARD

    path = bundle.folder / DATA_CARD
    return DataCard.model_validate_json(path.read_bytes()) if path.exists() else None


@contextlib.contextmanager
def line_by_line(*, quiet: bool = False) -> Iterator[None]:
    """Show an error of several lines as several; the command line would join them."""
    try:
        yield
    except RecipeError as error:
        if quiet or "\n" not in str(error):
            raise
        typer.secho(str(error), err=True, fg=typer.colors.RED)
        raise typer.Exit(1) from error


def _cross_validate(recipe: Path, *, as_json: bool) -> None:
    """Show how the recipe does on every fold."""
    from rich.console import Console

    with needs("train"):
        from tritium_builders.training import run
        from tritium_builders.training.report import render_folds

    with line_by_line():
        reports = run.cross_validate(recipe)
    if as_json:
        typer.echo(json.dumps([report.model_dump() for report in reports]))
    else:
        Console().print(render_folds(reports))


def _check(
    compare: str | None,
    take_best: bool,
    out_report: Path | None,
    *,
    reuse: bool,
    cross_validate: bool,
    out: Path | None,
) -> None:
    """Refuse options that contradict each other.

    Raises:
        typer.BadParameter: naming them.
    """
    if compare is None:
        for name, given in (("--take-best", take_best), ("--out-report", out_report is not None)):
            if given:
                raise typer.BadParameter(f"{name} needs --compare")
        return
    for name, given in (("--reuse", reuse), ("--cross-validate", cross_validate)):
        if given:
            raise typer.BadParameter(f"{name} does not go with --compare")
    if out is not None and not take_best:
        raise typer.BadParameter("--compare writes no bundle; add --take-best, or leave out --out")


def _compare(
    recipe: Path,
    names: str,
    *,
    out: Path | None,
    take_best: bool,
    report: Path | None,
    as_json: bool,
) -> None:
    """Compare, show, and write what was asked for."""
    from rich.console import Console

    with needs("train"):
        from tritium_builders.training import run
        from tritium_builders.training.comparison import render_comparison

    bundle = None
    with line_by_line():
        if take_best:
            bundle, comparison = run.train_best(recipe, names, out=out)
        else:
            comparison = run.compare_strategies(recipe, names)
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(comparison.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if as_json:
        answer = {} if bundle is None else {"bundle": str(bundle.folder), "hash": bundle.hash}
        typer.echo(json.dumps({**answer, "comparison": comparison.model_dump()}))
        return
    console = Console()
    console.print(render_comparison(comparison))
    if bundle is not None:
        console.print(f"Wrote {bundle.folder} (hash {bundle.hash[:12]}).", highlight=False)


@data_app.command("check")
def check_command(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.", show_default=False)],
    html: Annotated[
        Path | None,
        typer.Option(help="Write the data card as a page, too.", show_default=False),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the data card, or the problems, as JSON.")
    ] = False,
) -> None:
    """Check the manifest and the pictures of a recipe and show the data card; train nothing.

    Every picture is tried with the decoder that will serve the model. The bundle that
    `tritium train` writes holds the same card as data_card.json.

    Examples:

        tritium data check recipe.toml

        tritium data check recipe.toml --json

        tritium data check recipe.toml --html card.html

    Exit codes: 0 this data can be trained on; 1 it cannot, and each problem is named; 2 wrong
    usage.
    """
    from rich.console import Console

    with needs("train"):
        from tritium_builders.data.card import render_card
        from tritium_builders.data.problems import ManifestError
        from tritium_builders.training.run import check_data

    try:
        with line_by_line(quiet=as_json):
            card = check_data(recipe)
    except ManifestError as error:
        if not as_json:
            raise  # a single problem, which is one line anyway
        problems = [problem.as_dict() for problem in error.problems]
        typer.echo(json.dumps({"problems": problems, "more": error.more}, ensure_ascii=False))
        raise typer.Exit(1) from error
    if html is not None:
        with needs("train"):
            from tritium_builders.reports.files import write_page
            from tritium_builders.reports.page import render_card_page

            write_page(html, render_card_page(card))
    if as_json:
        typer.echo(card.to_json().decode(), nl=False)
    else:
        Console().print(render_card(card))
