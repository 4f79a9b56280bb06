"""`tritium status --watch`: looks again and again; a server that goes away is shown as such."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import typer

from tritium_client._exceptions import TritiumClientError
from tritium_client._results import AppStatus, ServerStatus

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tritium_client import Client

    Draw = Callable[[ServerStatus, Sequence[AppStatus]], list[RenderableType]]


@dataclasses.dataclass(frozen=True)
class Look:
    """What one look at a server found."""

    endpoint: str
    server: ServerStatus | None
    """None when nobody answered."""
    apps: tuple[AppStatus, ...]
    error: TritiumClientError | None
    """Why the look did not come to its end."""


Show = Callable[[Look], None]


def look(client: Client, app: str | None, timeout_s: float) -> Look:
    """Look at a server once.

    Args:
        client: Of the server.
        app: Only this app; None for every one.
        timeout_s: Seconds for each call.

    Returns:
        What was found, up to the first call that failed.
    """
    server: ServerStatus | None = None
    apps: list[AppStatus] = []
    error: TritiumClientError | None = None
    try:
        server = client.server_status(timeout_s=timeout_s)
        names = client.apps(timeout_s=timeout_s) if app is None else (app,)
        for name in names:
            apps.append(client.status(name, timeout_s=timeout_s))  # noqa: PERF401 - kept if one fails
    except TritiumClientError as failure:
        error = failure
    return Look(client.endpoint, server, tuple(apps), error)


def watch(take: Callable[[], Look], interval_s: float, *, as_json: bool, draw: Draw) -> None:
    """Show look after look until Ctrl-C.

    Args:
        take: Looks once.
        interval_s: Seconds from one look to the next; a look that takes longer delays it.
        as_json: One JSON object in a line for each look.
        draw: A server and its apps, for a terminal.
    """
    try:
        with _shown(interval_s, as_json=as_json, draw=draw) as show:
            while True:
                begun = time.monotonic()
                show(take())
                time.sleep(max(0.0, interval_s - (time.monotonic() - begun)))
    except KeyboardInterrupt:
        return  # that is how watching ends


@contextmanager
def _shown(interval_s: float, *, as_json: bool, draw: Draw) -> Iterator[Show]:
    """The way that looks are shown: as JSON, on a terminal, or a line for each change."""
    from rich.console import Console

    console = Console(highlight=False)
    if as_json:
        yield lambda found: typer.echo(json.dumps(_to_json(found), ensure_ascii=False))
    elif not console.is_terminal:
        yield _Changes()
    else:
        from rich.live import Live

        with Live(console=console, auto_refresh=False) as live:
            yield lambda found: live.update(_screen(found, interval_s, draw), refresh=True)


def _to_json(found: Look) -> dict[str, Any]:
    """The keys of `tritium status --json`, the same in every line, and when and what failed."""
    server = found.server or ServerStatus(found.endpoint, live=False, ready=False, version="")
    error = found.error
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        **dataclasses.asdict(server),
        "apps": [dataclasses.asdict(app) for app in found.apps],
        "error": None if error is None else {"kind": type(error).__name__, "message": str(error)},
    }


class _Changes:
    """Prints a line when something is another than at the look before."""

    def __init__(self) -> None:
        self._before: object = None

    def __call__(self, found: Look) -> None:
        """Compare one look to the one before it."""
        apps = tuple((app.app, app.release, app.ready) for app in found.apps)
        # The words of an error may differ from look to look while nothing has changed.
        state = (found.server, apps, type(found.error))
        if state != self._before:
            self._before = state
            typer.echo(f"{_clock()} {_to_line(found)}")


def _to_line(found: Look) -> str:
    if found.server is None:
        return f"{found.endpoint}: unreachable: {_one_line(found.error)}"
    parts = [
        f"{app.app} release {app.release} {'ready' if app.ready else 'not ready'}"
        for app in found.apps
    ]
    if found.error is not None:
        parts.append(_one_line(found.error))
    return f"{found.endpoint}: {state_of(found.server)}; {', '.join(parts) or 'no app is ready'}"


def _screen(found: Look, interval_s: float, draw: Draw) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    if found.server is None:
        parts.append(Text(f"{found.endpoint}: unreachable", style="bold red"))
    else:
        parts += draw(found.server, found.apps)
    if found.error is not None:
        parts.append(Text(_one_line(found.error), style="red"))
    note = f"{_clock()}, every {interval_s:g} s; Ctrl-C ends"
    return Group(*parts, Text(), Text(note, style="dim"))


def state_of(server: ServerStatus) -> str:
    """What a server says of itself, in a word or two."""
    return "ready" if server.ready else "live, not ready" if server.live else "not live"


def _one_line(error: TritiumClientError | None) -> str:
    return " ".join(str(error).split())


def _clock() -> str:
    return time.strftime("%H:%M:%S")
