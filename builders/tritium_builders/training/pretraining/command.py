"""`tritium pretrain`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tritium_builders.errors import needs


def pretrain_command(
    recipe: Annotated[
        Path, typer.Argument(help="The pretraining recipe, a TOML file.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The folder. Default: what the recipe says.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Adapt encoders to texts and pictures without labels, and write them.

    A training recipe names what comes out as the source of its encoder. What the recipe's split
    holds out is not looked at. Encoders that are already there are replaced.

    Examples:

        tritium pretrain recipes/pretraining/openmoji_masked_language.toml

        tritium pretrain recipes/pretraining/openmoji_contrastive.toml --out encoders/try --json
    """
    from rich.console import Console

    from tritium_builders.training.command import line_by_line

    with needs("train"):
        from tritium_builders.training.pretraining.report import render_pretraining
        from tritium_builders.training.pretraining.run import pretrain

    with line_by_line():
        folder, report = pretrain(recipe, out=out)
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "report": report.model_dump()}))
        return
    console = Console()
    console.print(render_pretraining(report))
    console.print(f"Wrote {folder}.", highlight=False)
