"""Progress bars on the terminal, for anything longer than two seconds."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], description: str, total: int) -> Iterable[T]:
    """Show a bar on stderr while `items` are consumed; silent where stderr is no terminal.

    Args:
        items: What to go through.
        description: What is being done.
        total: How many items there are.
    """
    from rich.console import Console
    from rich.progress import track as rich_track

    console = Console(stderr=True)
    # Of several processes that torchrun or accelerate has started, the first one shows it.
    if not console.is_terminal or os.environ.get("RANK", "0") != "0":
        return items
    return rich_track(items, description, total, console=console, transient=True)
