"""`tritium report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritium_builders.errors import needs

Out = Annotated[
    Path | None,
    typer.Option(help="The page. Default: <app>-report.html, here.", show_default=False),
]


def report_command(
    bundle: Annotated[
        Path, typer.Argument(help="A bundle that `tritium train` wrote.", show_default=False)
    ],
    out: Out = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Write the training report of a bundle as a page.

    The page needs nothing else: pictures are inside, and it works without a network. A bundle
    holds the same page as report.html, as it was when it was trained.

    Examples:

        tritium report bundles/openmoji --open

        tritium report bundles/openmoji --out openmoji.html

    Exit codes: 0 written; 1 the bundle holds no report, or the page cannot be written; 2 wrong
    usage.
    """
    with needs("train"):
        from tritium_builders.reports.files import open_page, write_page
        from tritium_builders.reports.page import read_content, render_page

        content = read_content(bundle)
        page = render_page(content)
    path = Path(f"{content.report.app}-report.html") if out is None else out
    write_page(path, page)
    typer.echo(f"Wrote {path}.")
    if show:
        open_page(path)
