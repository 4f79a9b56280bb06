"""The command line's verbs that talk to a server: `tritium classify`, `embed`, `status`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritium_client._command_options import collected, tls_options
from tritium_client._security import Tls

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tritium_client import AppStatus, Classification, Embedding, ServerStatus
    from tritium_client._batch.command import AskFiles, Files
    from tritium_client._batch.run import Options
    from tritium_client._probe import Probe

Url = Annotated[
    str, typer.Option(metavar="HOST:PORT", envvar="TRITIUM_URL", help="The server's gRPC port.")
]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds for the whole call.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")]
RouteKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="For instance a user's id: while a new release is tried out, one key always meets the "
        "same release.",
    ),
]

MANY = "Many items"
Input = Annotated[
    str | None,
    typer.Option(
        "--input",
        metavar="PATH",
        rich_help_panel=MANY,
        help="A folder of pictures, a .csv or .jsonl file with id, text and image, or - for "
        "JSON lines from standard input.",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=MANY,
        help="Gets a line of JSON for each item; what it answers already is not asked again. "
        "Standard output if not given, or with -.",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", rich_help_panel=MANY, help="Start the output anew.")
]
Concurrency = Annotated[
    int, typer.Option(min=1, rich_help_panel=MANY, help="Calls in flight at the most.")
]

BAR_WIDTH = 24
LABELS_SHOWN = 12
NUMBERS_SHOWN = 6
INTERVAL_S = 2.0


def register(app: typer.Typer) -> None:
    """Add `classify`, `embed`, `annotate`, `score`, `tag` and `status` to the command line."""
    from tritium_client._task_commands import register_tasks

    app.command(
        epilog="Examples:\n\n"
        "    tritium classify --app openmoji --text 'red apple' --image apple.png\n\n"
        "    tritium classify --app openmoji --text 'red apple' --json\n\n"
        "    tritium classify --app openmoji --input pictures --output answers.jsonl\n\n"
        "    tritium classify --app openmoji --input items.csv --output answers.jsonl --json\n\n"
        "Exit codes: 0 answered, 1 refused or failed, 2 wrong usage. With --input: 0 all answered, "
        "1 no server or no app, 2 wrong usage, 3 some items failed, 130 interrupted; the same "
        "command continues where it stopped, and asks again for what failed."
    )(classify)
    app.command(
        epilog="Examples:\n\n"
        "    tritium embed --app search --text 'red apple' --json\n\n"
        "    tritium embed --app search --input pictures --output vectors.jsonl\n\n"
        "An item is a text or a picture. Exit codes: as `tritium classify`."
    )(embed)
    register_tasks(app)
    app.command(
        epilog="Examples:\n\n"
        "    tritium status\n\n"
        "    tritium status --app openmoji --json\n\n"
        "    tritium status --watch --interval 5\n\n"
        "    tritium status --watch --json\n\n"
        "Exit codes: 0 everything asked for is ready, 1 it is not, 2 wrong usage. With --watch: "
        "0 ended by Ctrl-C, 2 wrong usage; a server that is not there is shown, and does not end "
        "it."
    )(status)


@collected("tls", tls_options)
def classify(
    app: Annotated[str, typer.Option(envvar="TRITIUM_APP", help="The app that is to answer.")],
    text: Annotated[str | None, typer.Option(help="A text.")] = None,
    image: Annotated[str | None, typer.Option(metavar="FILE", help="A picture's file.")] = None,
    url: Url = "localhost:8001",
    top_k: Annotated[int, typer.Option(min=1, help="How many labels to show.")] = 5,
    route_key: RouteKey = None,
    timeout: Timeout = 5.0,
    as_json: Json = False,
    source: Input = None,
    output: Output = None,
    overwrite: Overwrite = False,
    concurrency: Concurrency = 16,
    tls: Tls | None = None,
) -> None:
    """Classify a text, a picture, or both together; with --input, any number of them."""
    from tritium_client import Client

    files = _files(
        source, output, overwrite, as_json, one_item=text is not None or image is not None
    )
    if files is not None:
        from tritium_client._batch.command import classify_files
        from tritium_client._batch.run import Options

        options = Options(concurrency, timeout, top_k, route_key)
        raise typer.Exit(_ask(classify_files, url, app, tls, files, options))
    if text is None and image is None:
        raise typer.BadParameter("give --text, --image, or both")
    with usage_errors(), Client(url, app=app, tls=tls) as client:
        answer = client.classify(
            text=text, image=image, top_k=top_k, route_key=route_key, timeout_s=timeout
        )
    if as_json:
        print_json(_classification_json(answer))
    else:
        _print_classification(answer)


@collected("tls", tls_options)
def embed(
    app: Annotated[str, typer.Option(envvar="TRITIUM_APP", help="The app that is to answer.")],
    text: Annotated[str | None, typer.Option(help="A text.")] = None,
    image: Annotated[str | None, typer.Option(metavar="FILE", help="A picture's file.")] = None,
    url: Url = "localhost:8001",
    route_key: RouteKey = None,
    timeout: Timeout = 5.0,
    as_json: Json = False,
    source: Input = None,
    output: Output = None,
    overwrite: Overwrite = False,
    concurrency: Concurrency = 16,
    tls: Tls | None = None,
) -> None:
    """Embed a text or a picture; with --input, any number of them."""
    from tritium_client import Client

    files = _files(
        source, output, overwrite, as_json, one_item=text is not None or image is not None
    )
    if files is not None:
        from tritium_client._batch.command import embed_files
        from tritium_client._batch.run import Options

        options = Options(concurrency, timeout, route_key=route_key)
        raise typer.Exit(_ask(embed_files, url, app, tls, files, options))
    if (text is None) == (image is None):
        raise typer.BadParameter("give either --text or --image")
    with usage_errors(), Client(url, app=app, tls=tls) as client:
        if text is not None:
            answer = client.embed_text(text, route_key=route_key, timeout_s=timeout)
        else:
            answer = client.embed_image(str(image), route_key=route_key, timeout_s=timeout)
    _print_embedding(answer, as_json=as_json)


@collected("tls", tls_options)
def status(
    app: Annotated[str | None, typer.Option(envvar="TRITIUM_APP", help="Only this app.")] = None,
    url: Url = "localhost:8001",
    timeout: Timeout = 5.0,
    as_json: Json = False,
    watching: Annotated[
        bool,
        typer.Option(
            "--watch", help="Look again and again until Ctrl-C; with --json, a line each."
        ),
    ] = False,
    interval: Annotated[
        float | None,
        typer.Option(
            min=0.1, help=f"Seconds between two looks of --watch; {INTERVAL_S:g} if not given."
        ),
    ] = None,
    probing: Annotated[
        bool,
        typer.Option(
            "--probe/--no-probe",
            help="Send each entry point a request, as Triton calls dead processes ready; "
            "not with --watch.",
        ),
    ] = True,
    tls: Tls | None = None,
) -> None:
    """Show what a server serves (release, labels, modalities, target), and whether it answers."""
    from tritium_client import Client
    from tritium_client._probe import probe

    if watching:
        _watch(app, url, tls, timeout, interval or INTERVAL_S, as_json=as_json)
        return
    if interval is not None:
        raise typer.BadParameter("--interval needs --watch")
    with usage_errors(), Client(url, app=app, tls=tls) as client:
        server = client.server_status(timeout_s=timeout)
        names = client.apps(timeout_s=timeout) if app is None else (app,)
        apps = [client.status(name, timeout_s=timeout) for name in names]
        probes = {item.app: probe(client, item, timeout) for item in apps if probing}
    if as_json:
        as_dict = dataclasses.asdict
        shown = [
            as_dict(item) | {"probe": as_dict(probes[item.app]) if probing else None}
            for item in apps
        ]
        print_json(as_dict(server) | {"apps": shown})
    else:
        _print_status(server, apps, probes)
    unanswered = any(one.error is not None for one in probes.values())
    if unanswered or not (server.ready and all(item.ready for item in apps)):
        raise typer.Exit(1)


def _answers(app: AppStatus) -> str:
    """For instance `classify text + image | text | image; embed text | image`."""
    verbs: dict[str, list[str]] = {}
    for one in app.entry_points:
        verbs.setdefault(one.verb, []).append(" + ".join(one.modalities))
    return "; ".join(f"{verb} {' | '.join(given)}" for verb, given in verbs.items())


def _watch(
    app: str | None,
    url: str,
    tls: Tls | None,
    timeout_s: float,
    interval_s: float,
    *,
    as_json: bool,
) -> None:
    from tritium_client import Client, RetryPolicy
    from tritium_client._watch import look, watch

    if not math.isfinite(interval_s):
        raise typer.BadParameter(f"--interval must be a number of seconds: {interval_s}")
    # No retries: the next look is one, and this one shows what there was.
    with usage_errors(), Client(url, app=app, tls=tls, retries=RetryPolicy(attempts=1)) as client:
        watch(lambda: look(client, app, timeout_s), interval_s, as_json=as_json, draw=_status_parts)


def _files(
    source: str | None, output: str | None, overwrite: bool, as_json: bool, *, one_item: bool
) -> Files | None:
    """What many items are read from and written to; None when there is one item.

    Raises:
        typer.BadParameter: options that do not go together.
    """
    from tritium_client._batch.command import Files

    if source is None:
        if output is not None or overwrite:
            raise typer.BadParameter("--output and --overwrite need --input")
        return None
    if one_item:
        raise typer.BadParameter("give either --input, or --text and --image")
    if as_json and output in (None, "-"):
        raise typer.BadParameter("--json prints a summary; give --output FILE for the answers")
    return Files(source, output, overwrite, as_json)


def _ask(ask: AskFiles, url: str, app: str, tls: Tls | None, files: Files, options: Options) -> int:
    """Ask for many items; the exit code.

    Whether the app is there is asked without patience. From then on each item is tried until its
    own deadline, so that a server that is restarted in the middle ends no run. The budget that
    keeps callers from flooding a server is not needed: no more than --concurrency items wait.
    """
    from tritium_client import Client, RetryPolicy
    from tritium_client._arguments import check_route_key

    patience = RetryPolicy(
        attempts=50, budget=1, burst=10_000, first_pause_s=0.1, longest_pause_s=1
    )
    with usage_errors():
        check_route_key(options.route_key)
        check = Client(url, app=app, tls=tls)
        client = Client(url, app=app, tls=tls, retries=patience)
    with check, client:
        return ask(client, files, options, check=check)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Arguments that the client finds could never be right are wrong usage: exit code 2."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _classification_json(answer: Classification) -> dict[str, Any]:
    ranking = [dataclasses.asdict(ranked) for ranked in answer.ranking]
    return {
        "label": answer.label,
        "probability": answer.probability,
        "ranking": ranking,
        "release": answer.release,
        "request_id": answer.request_id,
        "latency_s": answer.timing.total_s,
    }


def print_json(value: dict[str, Any]) -> None:
    """One line for scripts."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def _print_classification(answer: Classification) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for place, ranked in enumerate(answer.ranking):
        table.add_row(
            Text(ranked.label, style="bold" if place == 0 else ""),
            f"{ranked.probability:.1%}".rjust(6),
            Text("█" * round(ranked.probability * BAR_WIDTH), style="green"),
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(f"release {answer.release}, {answer.timing.total_s * 1000:.1f} ms", style="dim")


def _print_embedding(answer: Embedding, *, as_json: bool) -> None:
    from tritium_client._batch.answers import vector_json

    vector = vector_json(answer)
    if as_json:
        print_json(
            {
                "vector": vector,
                "release": answer.release,
                "request_id": answer.request_id,
                "latency_s": answer.timing.total_s,
            }
        )
        return
    shown = ", ".join(f"{value:.4f}" for value in vector[:NUMBERS_SHOWN])
    more = ", ..." if len(vector) > NUMBERS_SHOWN else ""
    typer.echo(f"{len(vector)} numbers: {shown}{more}")
    typer.echo(f"release {answer.release}, {answer.timing.total_s * 1000:.1f} ms; --json has all")


def _print_status(
    server: ServerStatus, apps: Sequence[AppStatus], probes: Mapping[str, Probe]
) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for part in _status_parts(server, apps, probes):
        console.print(part)


def _word_of(app: AppStatus, probe: Probe | None) -> str:
    if not app.ready:
        return "not ready"
    if probe is None:
        return "ready"
    if probe.error is not None:
        return f"does not answer: {probe.error}"
    return f"ready, answers in {probe.slowest_ms:.0f} ms"


def _status_parts(
    server: ServerStatus,
    apps: Sequence[AppStatus],
    probes: Mapping[str, Probe] = MappingProxyType({}),
) -> list[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    from tritium_client._watch import state_of

    title = f"{server.endpoint}: Triton {server.version}, {state_of(server)}"
    parts: list[RenderableType] = [Text(title)]
    for app in apps:
        table = Table.grid(padding=(0, 2))
        shown = ", ".join(app.labels[:LABELS_SHOWN])
        more = ", ..." if len(app.labels) > LABELS_SHOWN else ""
        rows = {
            "release": str(app.release),
            "task": app.task,
            "answers": _answers(app),
            "labels": f"{len(app.labels)} ({shown}{more})",
            "target": f"{app.target}, {app.precision}",
            "wire version": app.wire_version,
        }
        for name, value in rows.items():
            table.add_row(Text(f"  {name}", style="dim"), Text(value))
        parts.append(Text())
        parts.append(Text(f"{app.app}: {_word_of(app, probes.get(app.app))}", style="bold"))
        parts.append(table)
    if not apps:
        parts.append(Text("no app is ready"))
    return parts
