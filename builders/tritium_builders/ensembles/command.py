"""`tritium ensemble`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tritium_builders.errors import needs

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tritium_builders.ensembles.merge import EnsembleRecord


def ensemble_command(
    bundles: Annotated[list[Path], typer.Argument(help="Two bundles or more.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The bundle's folder.", show_default=False)],
    kind: Annotated[
        Literal["average", "stacking"],
        typer.Option(help="Average their probabilities, or fit a regression over them."),
    ] = "average",
    weights: Annotated[
        str | None,
        typer.Option(
            help="Of an average: a number for each bundle with commas between them, or `tuned`.",
            show_default="all alike",
        ),
    ] = None,
    tune_on: Annotated[
        Path | None,
        typer.Option(
            help="For tuned weights and stacking: the recipe that the bundles were trained with, "
            "whose validation side is taken, or a manifest of other items.",
            show_default=False,
        ),
    ] = None,
    app: Annotated[
        str | None, typer.Option(help="The app's name.", show_default="the first bundle's")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was made as JSON.")] = False,
) -> None:
    """Make one bundle of several, which answers with all of them and is served as one app.

    The bundles have the same labels (in any order), tokenizer and preprocessing. Encoders that are
    equal are shared and run once.

    Examples:

        tritium ensemble bundles/a bundles/b --out bundles/ab

        tritium ensemble bundles/a bundles/b --out bundles/ab --weights 0.6,0.4

        tritium ensemble bundles/a bundles/b --out bundles/ab --weights tuned --tune-on recipe.toml

        tritium ensemble bundles/a bundles/b --out bundles/ab --kind stacking --tune-on more.jsonl

    Exit codes: 0 the bundle is written; 1 the bundles cannot be one, and why; 2 wrong usage.
    """
    from rich.console import Console

    with needs("build"):
        from tritium_builders.ensembles.merge import RECORD, EnsembleRecord, merge_bundles

    bundle = merge_bundles(
        bundles, out, kind=kind, weights=_weights(weights), tune_on=tune_on, app=app
    )
    record = EnsembleRecord.model_validate_json((bundle.folder / RECORD).read_bytes())
    if as_json:
        answer = {"bundle": str(bundle.folder), "hash": bundle.hash}
        typer.echo(json.dumps({**answer, "ensemble": record.model_dump()}))
        return
    console = Console()
    console.print(_render(record))
    console.print(f"Wrote {bundle.folder} (hash {bundle.hash[:12]}).", highlight=False)
    console.print(f"Next: tritium build {bundle.folder}", highlight=False)


def _weights(given: str | None) -> Sequence[float] | Literal["tuned"] | None:
    if given is None or given == "tuned":
        return given  # type: ignore[return-value]  # mypy does not narrow str by ==
    try:
        return [float(one) for one in given.split(",")]
    except ValueError as error:
        raise typer.BadParameter(
            f"--weights: {given!r} is neither `tuned` nor numbers with commas between them"
        ) from error


def _render(record: EnsembleRecord) -> RenderableType:
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    keys = list(record.accuracy or {})
    table = Table(title=f"accuracy on {record.held_out} items that every bundle held out")
    table.add_column("bundle")
    for key in keys:
        table.add_column(key, justify="right")
    for member in record.members:
        own = member.accuracy or {}
        table.add_row(escape(member.bundle), *(f"{own[key]:.1%}" for key in keys))
    table.add_section()
    together = record.accuracy or {}
    table.add_row(record.kind, *(f"{together[key]:.1%}" for key in keys))
    lines = [
        f"{name.removesuffix('_encoder')} encoders: {count}"
        for name, count in record.encoders.items()
    ]
    for key, own_weights in (record.weights or {}).items():
        lines.append(f"weights with {key}: {', '.join(f'{one:.2f}' for one in own_weights)}")
    if not keys:
        return Group("No item was held out by every bundle: there are no figures.", *lines)
    return Group(table, *lines)
