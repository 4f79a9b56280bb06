"""`tritium explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from tritium_builders.errors import needs
from tritium_builders.explain.records import Explanation, Method

SUFFIXES = (".html", ".png")


def explain_command(
    bundle: Annotated[Path, typer.Argument(help="A bundle.", show_default=False)],
    text: Annotated[str, typer.Option(help="The text.", show_default=False)],
    image: Annotated[Path, typer.Option(help="The picture, a file.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="Draw it: a page (.html) or a picture (.png).", show_default=False),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help=f"{', '.join(get_args(Method))}. Default: the first; occlusion for a bundle "
            "that keeps graphs.",
            show_default=False,
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="Whose output is explained. Default: the answer.", show_default=False),
    ] = None,
    word: Annotated[
        str | None,
        typer.Option(
            help="Whose tag is explained, of an app that tags words. Default: the one that is "
            "surest to be in an entity.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show what each word and each region of the picture adds to an answer.

    Attributions are in points of probability (of a regression in its scores; of an app that embeds
    in how similar text and picture are): blue raises the label's output, orange lowers it.

    Examples:

        tritium explain bundles/openmoji --text "red apple" --image apple.png --out why.html

        tritium explain bundles/openmoji --text "red apple" --image apple.png --method occlusion

        tritium explain bundles/names --text "Ann in Rome" --image ann.jpg --word Rome

    Exit codes: 0 explained; 1 the bundle, the item, label or word cannot be used; 2 wrong usage.
    """
    if method is not None and method not in get_args(Method):
        raise typer.BadParameter(f"--method is one of {', '.join(get_args(Method))}")
    if out is not None and out.suffix.lower() not in SUFFIXES:
        raise typer.BadParameter(f"--out must end with {' or '.join(SUFFIXES)}, not {out.name!r}")
    with needs("explain"):
        from tritium_builders.explain.explaining import explain, read_image

    content = read_image(image)
    chosen: Method | None = next((one for one in get_args(Method) if one == method), None)
    explanation = explain(
        bundle,
        text=text,
        image=content,
        method=chosen,
        label=label,
        word=word,
        progress=not as_json,
    )
    if out is not None:
        _draw(bundle, explanation, text, content, out)
    if as_json:
        typer.echo(explanation.to_json())
        return
    _show(explanation)
    if out is not None:
        typer.echo(f"Wrote {out}.")


def _draw(bundle: Path, explanation: Explanation, text: str, image: bytes, out: Path) -> None:
    with needs("explain"):
        from tritium_builders.bundle import read_manifest
        from tritium_builders.explain.page import render_explanation
        from tritium_builders.explain.picture import draw_explanation
        from tritium_builders.reports.files import write_page
        from tritium_builders.servables import image_decoder

        seen = image_decoder.decode(image, read_manifest(bundle).image.servable_spec())
        draw = render_explanation if out.suffix.lower() == ".html" else draw_explanation
        content = draw(explanation, text, seen)
    write_page(out, content)


def _show(explanation: Explanation) -> None:
    """Print the answer and what adds most to it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        "part", "adds",
        title=f"{escape(explanation.question)}: {explanation.output:.3f} ({explanation.method})",
    )  # fmt: skip
    ranked = sorted(explanation.tokens, key=lambda token: -abs(token.attribution))
    for token in (one for one in ranked[:10] if not one.special):
        table.add_row(escape(token.token), f"{token.attribution:+.3f}")
    for name, share in (("text", explanation.text), ("image", explanation.image)):
        if share.attribution is not None:
            table.add_row(f"all of the {name}", f"{share.attribution:+.3f}")
    console = Console()
    console.print(table)
    for name, share in (("text", explanation.text), ("image", explanation.image)):
        if share.without is not None:
            console.print(f"without the {name}: {share.without:.3f}", highlight=False)
    for note in explanation.notes:
        console.print(f"note: {escape(note)}", highlight=False)
