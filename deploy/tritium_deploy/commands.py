"""The verbs of this room: `tritium serve`, and those of other files."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from tritium_builders.errors import MissingExtraError, TritiumError, needs
from tritium_client._command_options import collected
from tritium_deploy.envoy_command import EPILOG as ENVOY_EPILOG
from tritium_deploy.envoy_command import envoy_config_command
from tritium_deploy.rollout.commands import rollout_commands
from tritium_deploy.security import Security
from tritium_deploy.security.options import security_options
from tritium_deploy.verify_command import EPILOG as VERIFY_EPILOG
from tritium_deploy.verify_command import verify_command

if TYPE_CHECKING:
    from tritium_deploy.events import Event, OnEvent
    from tritium_deploy.server import Server

DUPLICATE_S = 1.0
"""Wrappers (timeout, make, a shell) pass a signal on to a process that already had it."""

EPILOG = """
Examples:

  tritium serve

  tritium serve --repository model_repository --app openmoji --free-ports

  tritium serve --json --log triton.log

  tritium serve --tuning openmoji.tuning.toml

  tritium serve --response-cache 256

  tritium serve --host 0.0.0.0 --tls-cert server.pem --tls-key server.key

  tritium serve --require-signed signing.key.pub

  tritium serve --trace-endpoint http://127.0.0.1:4318/v1/traces

Exit codes: 0 stopped by a signal with nothing lost; 1 it could not start, tritonserver died, or
requests were still in flight at the end; 2 wrong usage.
"""


def register(app: typer.Typer) -> None:
    """Add this room's commands to the `tritium` program."""
    app.command("serve", epilog=EPILOG)(serve_command)
    app.add_typer(rollout_commands, name="rollout")
    app.command("verify", epilog=VERIFY_EPILOG)(verify_command)
    app.command("envoy-config", epilog=ENVOY_EPILOG)(envoy_config_command)
    app.command("demo")(demo_command)


@collected("security", security_options)
def serve_command(
    repository: Annotated[
        Path, typer.Option(help="Model repository that `tritium build` published into.")
    ] = Path("model_repository"),
    app: Annotated[
        list[str] | None, typer.Option(help="Serve this app only; may be repeated.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address of gRPC, metrics and readiness. HTTP stays on loopback.")
    ] = "127.0.0.1",
    grpc_port: Annotated[int, typer.Option(min=1, max=65535)] = 8001,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535)] = 8002,
    ready_port: Annotated[int, typer.Option(min=1, max=65535, help="/live and /ready.")] = 8003,
    http: Annotated[
        bool, typer.Option("--http/--no-http", help="Inference over HTTP too.")
    ] = False,
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    free_ports: Annotated[bool, typer.Option("--free-ports", help="Choose free ports.")] = False,
    tuning: Annotated[
        list[Path] | None,
        typer.Option(help="What `tritium bench tune` wrote for an app; may be repeated."),
    ] = None,
    response_cache: Annotated[
        int,
        typer.Option(min=0, help="MiB in which answers are kept for equal requests; 0 for none."),
    ] = 0,
    router: Annotated[
        bool,
        typer.Option("--router", help="Load APP_route: a canary's split without the SDK."),
    ] = False,
    trace_endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Send OpenTelemetry spans there: http://HOST:4318/v1/traces."
        ),
    ] = None,
    trace_rate: Annotated[
        int,
        typer.Option(
            min=0, help="Trace one in N requests besides those whose callers trace; 0 for none."
        ),
    ] = 0,
    tritonserver: Annotated[
        Path | None, typer.Option(help="The binary; else from PATH, else nvidia-pytriton's.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="Append Triton's log here; else it goes at a good end.")
    ] = None,
    drain_timeout: Annotated[
        float, typer.Option(min=0, help="Seconds for requests in flight after SIGTERM or Ctrl-C.")
    ] = 30.0,
    drain_delay: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds before that in which /ready says no and requests are still taken."
        ),
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    security: Security | None = None,
) -> None:
    """Serve every live app of a repository on Triton until told to stop.

    Ready means that every golden sample was answered through Triton as PyTorch answered it at
    build. SIGTERM or Ctrl-C finishes the requests in flight first; a second one stops at once.
    """
    if trace_rate and trace_endpoint is None:
        raise typer.BadParameter("it needs --trace-endpoint", param_hint="--trace-rate")
    with _interruptible() as signals, _Reporter(as_json) as reporter:
        try:
            from tritium_deploy.ports import Ports
            from tritium_deploy.server import serve
            from tritium_deploy.tracing import Tracing
            from tritium_deploy.tuning import read_tuning

            ports = (
                Ports.free("127.0.0.1" if host == "localhost" else host)
                if free_ports
                else Ports(grpc_port, metrics_port, ready_port, http_port)
            )
            server = serve(
                repository,
                ports=ports,
                host=host,
                http=http,
                apps=app,
                tritonserver=tritonserver,
                log=log,
                tunings=[read_tuning(path) for path in tuning or []],
                response_cache_mib=response_cache,
                router=router,
                security=security,
                tracing=Tracing(trace_endpoint, trace_rate) if trace_endpoint else None,
                on_event=_both(signals.note, reporter),
            )
            drained = _run(server, signals, drain_timeout, drain_delay)
        except _StoppedWhileStartingError as error:
            reporter.fail("Interrupted", "stopped while starting; nothing is left running", error)
        except TritiumError as error:
            reporter.fail(type(error).__name__, str(error), error)
        except ModuleNotFoundError as error:
            missing = MissingExtraError(error.name or "a package", "serve")
            reporter.fail(type(missing).__name__, str(missing), error)
    if not drained:
        raise typer.Exit(1)


def _run(server: Server, signals: _Signals, drain_timeout: float, drain_delay: float) -> bool:
    """Wait for the end of the server or a signal, then drain. The second signal ends the drain."""
    signals.serving(server)
    try:
        while not signals.stop.wait(0.2):
            server.wait(0)
    finally:
        drained = server.close(drain_timeout, drain_delay)
    return drained


class _StoppedWhileStartingError(Exception):
    """A signal came before the server was ready."""


class _Signals:
    """What SIGTERM and SIGINT mean: while starting, once, and again."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._first = 0.0
        self._ready = False
        self._server: Server | None = None

    def note(self, event: Event) -> None:
        """Whoever reads "ready" may stop us at once, before `serve` has returned its server."""
        if event.name == "ready":
            self._ready = True

    def serving(self, server: Server) -> None:
        """From now on the first signal drains."""
        self._server = server

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.stop.is_set():
            if self._server is not None and now - self._first > DUPLICATE_S:
                self._server.abort()
            return
        self._first = now
        self.stop.set()
        if not self._ready:
            raise _StoppedWhileStartingError


def _both(first: OnEvent, second: OnEvent) -> OnEvent:
    """Tell two, in this order."""

    def tell(event: Event) -> None:
        first(event)
        second(event)

    return tell


@contextmanager
def _interruptible() -> Iterator[_Signals]:
    handler = _Signals()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield handler
    finally:
        for number, old in before.items():
            signal.signal(number, old)


class _Reporter:
    """Prints events: for people on a terminal with a progress bar, or as JSON lines.

    Args:
        as_json: One JSON object for each event in place of text.
    """

    def __init__(self, as_json: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._json = as_json
        self._lock = threading.Lock()
        self._console = Console(highlight=False)
        self._errors = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            console=self._console,
            transient=True,
            disable=as_json or not self._console.is_terminal,
        )
        self._task = self._progress.add_task("starting", total=None)

    def __enter__(self) -> _Reporter:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Print one event."""
        with self._lock:
            if self._json:
                if event.name != "progress":
                    _print_json({"event": event.name, "text": event.text, **event.fields})
            elif event.name == "progress":
                self._progress.update(
                    self._task,
                    description=event.fields["what"],
                    completed=event.fields["done"],
                    total=event.fields["total"],
                )
            else:
                self._print(event)

    def fail(self, kind: str, text: str, error: BaseException) -> NoReturn:
        """Say in one line why the command ends, and end it."""
        self._progress.stop()
        if self._json:
            _print_json({"event": "error", "kind": kind, "text": text})
        else:
            self._errors.print(f"error: {text}", soft_wrap=True, markup=False)
        raise typer.Exit(1) from error

    def _print(self, event: Event) -> None:
        seconds = event.fields.get("seconds")
        if event.name != "ready":
            took = "" if seconds is None else f"  ({seconds:.1f} s)"
            self._console.print(f"{event.text}{took}", soft_wrap=True, markup=False)
            return
        self._progress.stop()
        fields = event.fields
        for app, release in fields["apps"].items():
            http = f", HTTP {fields['http']}" if fields["http"] else ""
            line = (
                f"{app} release {release}: gRPC {fields['grpc']}{http}, "
                f"ready {fields['ready']}, metrics {fields['metrics']}"
            )
            self._console.print(line, soft_wrap=True, markup=False)
        self._console.print(
            f"{event.text}; log {fields['log']}; Ctrl-C stops", soft_wrap=True, markup=False
        )


def _print_json(fields: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def demo_command(
    recipe: Annotated[Path, typer.Option(help="The demo recipe.")] = Path("recipes/openmoji.toml"),
    bundle: Annotated[Path, typer.Option(help="Where its bundle goes.")] = Path("bundles/openmoji"),
    repository: Annotated[Path, typer.Option(help="The Triton model repository.")] = Path(
        "model_repository"
    ),
) -> None:
    """Go the whole way once: train, build, serve, ask about held-out items, stop.

    What is already trained and built is taken as it is.

    Examples:

        tritium demo

        tritium demo --repository /tmp/models
    """
    with needs("demo"):
        from rich.console import Console

        from tritium_deploy.demo import run_demo

    run_demo(recipe, bundle, repository, Console())
