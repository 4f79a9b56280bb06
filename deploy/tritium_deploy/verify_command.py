"""`tritium verify`: a repository against its release.json files, with no server anywhere."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tritium_builders.errors import TritiumError, needs

EPILOG = """
Examples:

  tritium verify

  tritium verify --repository /models --app openmoji --json

  tritium verify --all

Exit codes: 0 every file is as it was published; 1 one is not, or is missing; 2 wrong usage.
"""


def verify_command(
    repository: Annotated[
        Path, typer.Option(help="Model repository that `tritium build` published into.")
    ] = Path("model_repository"),
    app: Annotated[
        list[str] | None, typer.Option(help="Verify this app only; may be repeated.")
    ] = None,
    every_release: Annotated[
        bool,
        typer.Option("--all", help="Every release, not only what a server starts with."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Compare a repository's files with what was published, by SHA-256.

    Finds copies that are not whole, damaged files, and files that nobody published. Needs no
    server, and changes nothing. Without --all it reads what a server starts with: live releases,
    and candidates that get a share.
    """
    with needs("serve"):
        from rich.console import Console
        from rich.progress import Progress, TextColumn

        from tritium_deploy.verify import verify_repository

    console = Console(highlight=False, stderr=True)
    progress = Progress(
        TextColumn("verified {task.completed:.0f} files  {task.description}"),
        console=console,
        transient=True,
        disable=as_json or not console.is_terminal,
    )
    task = progress.add_task("")
    try:
        with progress:
            verified = verify_repository(
                repository,
                app,
                every_release=every_release,
                on_file=lambda path, _size: progress.update(task, advance=1, description=path),
            )
    except (TritiumError, OSError) as error:
        if as_json:
            _print_json({"event": "error", "kind": type(error).__name__, "text": str(error)})
        else:
            console.print(f"error: {error}", soft_wrap=True, markup=False)
        raise typer.Exit(1) from error
    for one in verified:
        if as_json:
            _print_json({"event": "verified", **asdict(one)})
        else:
            stage = " (live)" if one.live else ""
            files = f"{one.files} files, {one.size / 1e6:.1f} MB"
            typer.echo(f"{one.app} release {one.number}{stage}: {files} as published")


def _print_json(fields: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()
