"""Writing a page where somebody asked for it."""

from __future__ import annotations

from pathlib import Path

import typer

from tritium_builders.durable import replace_bytes
from tritium_builders.errors import TritiumError


class PageError(TritiumError):
    """A page cannot be written."""


def write_page(path: Path, page: bytes) -> None:
    """Write a page or a picture, whole or not at all; folders above it are made.

    Args:
        path: The file; one that is there is replaced.
        page: Its content.

    Raises:
        PageError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_bytes(path, page)
    except OSError as error:
        raise PageError(
            f"{path}: cannot be written ({error.strerror}); choose another file"
        ) from error


def open_page(path: Path) -> None:
    """Show a page in the browser, and say so where there is none."""
    import webbrowser

    if not webbrowser.open(path.resolve().as_uri()):
        typer.echo("No browser was found here; open the page yourself.", err=True)
