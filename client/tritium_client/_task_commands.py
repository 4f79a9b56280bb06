"""`tritium annotate`, `tritium score` and `tritium tag`: one item, asked and shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritium_client._command_options import collected, tls_options
from tritium_client._security import Tls
from tritium_client.commands import (
    BAR_WIDTH,
    Json,
    RouteKey,
    Timeout,
    Url,
    print_json,
    usage_errors,
)

if TYPE_CHECKING:
    from tritium_client import Annotation, Score, Tagging

App = Annotated[str, typer.Option(envvar="TRITIUM_APP", help="The app that is to answer.")]
Text = Annotated[str | None, typer.Option(help="A text.")]
Image = Annotated[str | None, typer.Option(metavar="FILE", help="A picture's file.")]

EXIT_CODES = "Exit codes: 0 answered, 1 refused or failed, 2 wrong usage."


def register_tasks(app: typer.Typer) -> None:
    """Add `annotate`, `score` and `tag` to the command line."""
    app.command(
        epilog="Examples:\n\n"
        "    tritium annotate --app moods --text 'red apple' --image apple.png\n\n" + EXIT_CODES
    )(annotate)
    app.command(
        epilog="Examples:\n\n"
        "    tritium score --app prices --text 'red bicycle' --image bicycle.jpg --json\n\n"
        + EXIT_CODES
    )(score)
    app.command(
        epilog="Examples:\n\n"
        "    tritium tag --app places --text 'The Eiffel tower in Paris' --image tower.jpg\n\n"
        + EXIT_CODES
    )(tag)


@collected("tls", tls_options)
def annotate(
    app: App,
    text: Text = None,
    image: Image = None,
    url: Url = "localhost:8001",
    route_key: RouteKey = None,
    timeout: Timeout = 5.0,
    as_json: Json = False,
    tls: Tls | None = None,
) -> None:
    """Find all labels that hold for a text, a picture, or both together (multi-label)."""
    from tritium_client import Client

    _require(text, image)
    with usage_errors(), Client(url, app=app, tls=tls) as client:
        answer = client.annotate(text=text, image=image, route_key=route_key, timeout_s=timeout)
    if as_json:
        labels = [dataclasses.asdict(one) for one in answer.labels]
        ranking = [dataclasses.asdict(one) for one in answer.ranking]
        more = {"ranking": ranking, "thresholds": dict(answer.thresholds)}
        print_json({"labels": labels, **more, **_origin(answer)})
        return
    holding = {one.label for one in answer.labels}
    rows = [
        (
            ("✓ " if one.label in holding else "  ") + one.label,
            f"{one.probability:.1%}".rjust(6),
            "█" * round(one.probability * BAR_WIDTH),
        )
        for one in answer.ranking
    ]
    _print_table(rows, answer)


@collected("tls", tls_options)
def score(
    app: App,
    text: Text = None,
    image: Image = None,
    url: Url = "localhost:8001",
    route_key: RouteKey = None,
    timeout: Timeout = 5.0,
    as_json: Json = False,
    tls: Tls | None = None,
) -> None:
    """Predict numbers for a text, a picture, or both together (regression)."""
    from tritium_client import Client

    _require(text, image)
    with usage_errors(), Client(url, app=app, tls=tls) as client:
        answer = client.score(text=text, image=image, route_key=route_key, timeout_s=timeout)
    found = dict(zip(answer.names, answer.values.tolist(), strict=True))
    if as_json:
        print_json({"scores": found, **_origin(answer)})
        return
    _print_table([(name, f"{value:.4g}") for name, value in found.items()], answer)


@collected("tls", tls_options)
def tag(
    app: App,
    text: Annotated[str, typer.Option(help="A text.")],
    image: Image = None,
    url: Url = "localhost:8001",
    route_key: RouteKey = None,
    timeout: Timeout = 5.0,
    as_json: Json = False,
    tls: Tls | None = None,
) -> None:
    """Find the entities of a text, with the help of a picture where there is one."""
    from tritium_client import Client

    with usage_errors(), Client(url, app=app, tls=tls) as client:
        answer = client.tag(text, image, route_key=route_key, timeout_s=timeout)
    if as_json:
        entities = [dataclasses.asdict(one) for one in answer.entities]
        tags = [dataclasses.asdict(one) for one in answer.tags]
        print_json({"entities": entities, "tags": tags, **_origin(answer)})
        return
    found = [(one.text, one.label, f"{one.probability:.1%}".rjust(6)) for one in answer.entities]
    _print_table(found or [("no entities",)], answer)


def _require(text: str | None, image: str | None) -> None:
    if text is None and image is None:
        raise typer.BadParameter("give --text, --image, or both")


def _origin(answer: Annotation | Score | Tagging) -> dict[str, Any]:
    return {
        "release": answer.release,
        "request_id": answer.request_id,
        "latency_s": answer.timing.total_s,
    }


def _print_table(rows: Sequence[tuple[str, ...]], answer: Annotation | Score | Tagging) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"release {answer.release}, {answer.timing.total_s * 1000:.1f} ms", style="dim")
