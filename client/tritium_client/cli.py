"""The `tritium` command. Each room brings its own verbs (entry points `tritium.commands`).

Exit codes: 0 ok, 1 failure, 2 wrong usage, 3 some items failed.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points, version
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import typer

GROUP = "tritium.commands"
DEBUG = "TRITIUM_DEBUG"
PACKAGES = ("tritium_client", "tritium_builders", "tritium_deploy", "tritium_benchmarks")


def main() -> NoReturn:
    """Run the command line; always ends the process with one of the exit codes above."""
    try:
        app, missing = build_app()
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich"}:
            raise
        _fail(f"the command line needs {error.name}; run: pip install 'tritium[cli]'")
    try:
        app()
    except SystemExit as end:
        if end.code == 2 and missing and not _knows(app, sys.argv[1:2]):
            sys.stderr.write("".join(f"not available: {line}\n" for line in missing))
        raise
    except Exception as error:
        if os.environ.get(DEBUG) or not _is_ours(error):
            raise
        _fail(str(error))
    sys.exit(0)


def build_app() -> tuple[typer.Typer, list[str]]:
    """Collect the verbs of every room that can be imported.

    Returns:
        The command line, and a line for each room that cannot, saying why.
    """
    import typer

    app = typer.Typer(
        name="tritium",
        help="Serve text + image fusion models on NVIDIA Triton with answers proven equal to "
        "PyTorch's.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    missing: list[str] = []
    for room in sorted(entry_points(group=GROUP), key=lambda room: room.name):
        try:
            room.load()(app)
        except Exception as error:
            # One room without its extra must not take the verbs of the others away.
            if not (isinstance(error, ImportError) or _is_ours(error)):
                raise
            missing.append(f"the verbs of {room.name} ({error})")
    epilog = "\n\n".join(
        [
            "Exit codes: 0 ok, 1 failure, 2 wrong usage, 3 some items failed. "
            f"{DEBUG}=1 shows tracebacks.",
            *(f"Not available: {line}." for line in missing),
        ]
    )

    def show(value: bool) -> None:
        if value:
            typer.echo(f"tritium {version('tritium')}")
            raise typer.Exit

    option = typer.Option(
        False, "--version", is_eager=True, callback=show, help="Show the version."
    )

    @app.callback(epilog=epilog)
    def _root(show_version: bool = option) -> None:
        del show_version

    return app, missing


def _knows(app: typer.Typer, verb: list[str]) -> bool:
    from typer.main import get_group

    return not verb or verb[0] in get_group(app).commands


def _is_ours(error: Exception) -> bool:
    """Whether a room raised it on purpose: then its message is meant for the user."""
    return type(error).__module__.partition(".")[0] in PACKAGES


def _fail(message: str) -> NoReturn:
    line = " ".join(message.split())
    if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        line = f"\033[31m{line}\033[0m"
    sys.stderr.write(f"{line}\n")
    sys.exit(1)
