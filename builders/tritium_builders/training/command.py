"""`tritium train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tritium_builders.errors import needs


def train_command(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The bundle's folder. Default: what the recipe says.", show_default=False
        ),
    ] = None,
    reuse: Annotated[
        bool, typer.Option("--reuse", help="Take the bundle that this recipe already made.")
    ] = False,
    cross_validate: Annotated[
        bool,
        typer.Option("--cross-validate", help="Hold every fold out in turn; write no bundle."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report and the bundle's hash as JSON.")
    ] = False,
) -> None:
    """Train a fusion head on frozen encoders and write a bundle.

    Features are computed once and kept in the user's cache folder; training again takes seconds
    and gives the same bundle. A bundle that is already there is replaced.

    Examples:

        tritium train recipes/openmoji.toml

        tritium train recipes/openmoji.toml --out /tmp/try --json

        tritium train recipes/openmoji.toml --cross-validate
    """
    from rich.console import Console

    with needs("train"):
        from tritium_builders.training import run
        from tritium_builders.training.report import TrainingReport, render_folds, render_report

    if cross_validate:
        reports = run.cross_validate(recipe)
        if as_json:
            typer.echo(json.dumps([report.model_dump() for report in reports]))
        else:
            Console().print(render_folds(reports))
        return
    bundle = run.train(recipe, out=out, reuse=reuse)
    report = TrainingReport.model_validate_json((bundle.folder / run.REPORT).read_bytes())
    if as_json:
        answer = {"bundle": str(bundle.folder), "hash": bundle.hash}
        typer.echo(json.dumps({**answer, "report": report.model_dump()}))
        return
    console = Console()
    console.print(render_report(report))
    console.print(f"Wrote {bundle.folder} (hash {bundle.hash[:12]}).", highlight=False)
    console.print(f"Next: tritium build {bundle.folder}", highlight=False)
