"""`tritium rollout`: another release for running servers, step by step and back again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritium_builders.errors import TritiumError, needs
from tritium_client._command_options import collected
from tritium_deploy.errors import RepositoryError, SettingsError
from tritium_deploy.security.options import NOTHING_GIVEN, GivenAccess, access_options

if TYPE_CHECKING:
    from tritium_deploy.rollout.operator import Rollout
    from tritium_deploy.rollout.plan import Plan, StepEvent
    from tritium_deploy.rollout.settings import RolloutSettings

EPILOG = """
Examples:

  tritium rollout status openmoji

  tritium rollout stage openmoji 2

  tritium rollout canary openmoji 2 --percent 5 --watch 60

  tritium rollout promote openmoji 2 --watch 120

  tritium rollout rollback openmoji

  tritium rollout retire openmoji 1 --delete

  tritium rollout promote openmoji 2 --endpoint triton-headless:8001 --dry-run

Every command may be interrupted and given again. Exit codes: 0 done; 1 refused, failed, or rolled
back by --watch; 2 wrong usage.
"""

rollout_commands = typer.Typer(
    help="Roll releases out to running servers, and back.", no_args_is_help=True, epilog=EPILOG
)

AppName = Annotated[str, typer.Argument(help="The app.", show_default=False)]
Number = Annotated[int, typer.Argument(min=1, help="The release.", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan, and change nothing.")]
Accept = Annotated[
    bool,
    typer.Option("--accept", help="Take an app without labels on its agreement with live."),
]
NewSpace = Annotated[
    bool, typer.Option("--new-space", help="Take embeddings in another space than live's.")
]
Repository = Annotated[Path, typer.Option(help="The repository that the servers serve from.")]
Endpoint = Annotated[
    list[str] | None,
    typer.Option(
        help="gRPC address of a server, host:port; may be repeated. A name with several addresses "
        "is several servers.  [default: 127.0.0.1:8001]",
        envvar="TRITIUM_ENDPOINTS",
        show_default=False,
    ),
]
Settings = Annotated[
    Path | None, typer.Option(help="Gates and bounds; else ./rollout.toml, else the defaults.")
]
Skip = Annotated[
    bool,
    typer.Option("--skip-unreachable", help="Go on without servers that do not answer."),
]
Wait = Annotated[
    float, typer.Option(min=0, help="Seconds to wait for another operator who is at work.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Watch = Annotated[
    float | None,
    typer.Option(
        min=0.1, help="Seconds to watch afterwards; a bound that breaks takes it back by itself."
    ),
]
MODEL_REPOSITORY = Path("model_repository")


@rollout_commands.command("status")
@collected("access", access_options)
def status_command(
    app: Annotated[str | None, typer.Argument(help="The app; all without it.")] = None,
    repository: Repository = MODEL_REPOSITORY,
    endpoint: Endpoint = None,
    access: GivenAccess = NOTHING_GIVEN,
    as_json: Json = False,
) -> None:
    """Show where releases stand: in the repository, and on every server."""
    from tritium_builders.release import list_apps

    with _session(repository, endpoint, None, access, False, 0.0, as_json, lenient=True) as session:
        apps = [app] if app is not None else list_apps(session.rollout.repository)
        states = [session.rollout.status(one) for one in apps]
        if as_json:
            for state in states:
                _print_json(state.as_json())
        else:
            from tritium_deploy.rollout.show import show_state

            for state in states:
                show_state(state, session.console)


@rollout_commands.command("stage")
@collected("access", access_options)
def stage_command(
    app: AppName,
    release: Number,
    repository: Repository = MODEL_REPOSITORY,
    endpoint: Endpoint = None,
    settings: Settings = None,
    access: GivenAccess = NOTHING_GIVEN,
    skip_unreachable: Skip = False,
    wait: Wait = 0.0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Verify a release, load it beside the live one, and replay its golden samples.

    Callers notice nothing of it.
    """
    with _session(
        repository, endpoint, settings, access, skip_unreachable, wait, as_json
    ) as session:
        session.show(session.rollout.stage(app, release, dry_run=dry_run), dry_run)


@rollout_commands.command("canary")
@collected("access", access_options)
def canary_command(
    app: AppName,
    release: Number,
    percent: Annotated[
        float, typer.Option(min=0, max=100, help="Share of route keys; 0 ends the canary.")
    ],
    watch: Watch = None,
    accept: Accept = False,
    new_space: NewSpace = False,
    repository: Repository = MODEL_REPOSITORY,
    endpoint: Endpoint = None,
    settings: Settings = None,
    access: GivenAccess = NOTHING_GIVEN,
    skip_unreachable: Skip = False,
    wait: Wait = 0.0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Send a share of callers to a release, after its gates. It is staged first where need be.

    The SDK learns of it within seconds, and keeps each route key on one side.
    """
    with _session(
        repository, endpoint, settings, access, skip_unreachable, wait, as_json
    ) as session:
        plan = session.rollout.canary(
            app, release, percent, accept=accept, new_space=new_space, dry_run=dry_run
        )
        session.show(plan, dry_run)
        session.watch(app, None if dry_run or percent == 0 else watch)


@rollout_commands.command("shadow")
@collected("access", access_options)
def shadow_command(
    app: AppName,
    release: Number,
    percent: Annotated[
        float, typer.Option(min=0, max=100, help="Share of requests; 0 ends the shadow.")
    ],
    repository: Repository = MODEL_REPOSITORY,
    endpoint: Endpoint = None,
    settings: Settings = None,
    access: GivenAccess = NOTHING_GIVEN,
    skip_unreachable: Skip = False,
    wait: Wait = 0.0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Have callers' SDK ask a release as well, and compare; they get the live release's answers."""
    with _session(
        repository, endpoint, settings, access, skip_unreachable, wait, as_json
    ) as session:
        session.show(session.rollout.shadow(app, release, percent, dry_run=dry_run), dry_run)


@rollout_commands.command("promote")
@collected("access", access_options)
def promote_command(
    app: AppName,
    release: Number,
    watch: Watch = None,
    accept: Accept = False,
    new_space: NewSpace = False,
    repository: Repository = MODEL_REPOSITORY,
    endpoint: Endpoint = None,
    settings: Settings = None,
    access: GivenAccess = NOTHING_GIVEN,
    skip_unreachable: Skip = False,
    wait: Wait = 0.0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a release live on every server, after its gates. It is staged first where need be."""
    with _session(
        repository, endpoint, settings, access, skip_unreachable, wait, as_json
    ) as session:
        plan = session.rollout.promote(
            app, release, accept=accept, new_space=new_space, dry_run=dry_run
        )
        session.show(plan, dry_run)
        session.watch(app, None if dry_run else watch)


@rollout_commands.command("rollback")
@collected("access", access_options)
def rollback_command(
    app: AppName,
    to: Annotated[
        int | None, typer.Option(min=1, help="Which release; else the one before the last promote.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; goes into the history.")] = "",
    repository: Repository = MODEL_REPOSITORY,
    endpoint: Endpoint = None,
    settings: Settings = None,
    access: GivenAccess = NOTHING_GIVEN,
    wait: Wait = 0.0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make the former release live again, at once: no gates, no rebuild.

    Servers that do not answer hold nothing up; they follow when they are back.
    """
    with _session(
        repository, endpoint, settings, access, True, wait, as_json, lenient=True
    ) as session:
        plan = session.rollout.rollback(app, to=to, reason=reason, dry_run=dry_run)
        session.show(plan, dry_run)


@rollout_commands.command("retire")
@collected("access", access_options)
def retire_command(
    app: AppName,
    release: Number,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove the files that no other release needs.")
    ] = False,
    repository: Repository = MODEL_REPOSITORY,
    endpoint: Endpoint = None,
    access: GivenAccess = NOTHING_GIVEN,
    skip_unreachable: Skip = False,
    wait: Wait = 0.0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Unload a release that nothing refers to: not live, no candidate, not to be rolled back to."""
    with _session(
        repository, endpoint, None, access, skip_unreachable, wait, as_json, lenient=True
    ) as session:
        plan = session.rollout.retire(app, release, delete=delete, dry_run=dry_run)
        session.show(plan, dry_run)


@rollout_commands.command("gc")
@collected("access", access_options)
def gc_command(
    app: AppName,
    keep: Annotated[int, typer.Option(min=1, help="How many of the newest releases stay.")] = 3,
    repository: Repository = MODEL_REPOSITORY,
    endpoint: Endpoint = None,
    access: GivenAccess = NOTHING_GIVEN,
    skip_unreachable: Skip = False,
    wait: Wait = 0.0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Retire and remove all but the newest releases, and what something refers to."""
    with _session(
        repository, endpoint, None, access, skip_unreachable, wait, as_json, lenient=True
    ) as session:
        session.show(session.rollout.gc(app, keep=keep, dry_run=dry_run), dry_run)


@rollout_commands.command("watch")
@collected("access", access_options)
def watch_command(
    app: AppName,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="For how long; else as the settings say.")
    ] = None,
    repository: Repository = MODEL_REPOSITORY,
    endpoint: Endpoint = None,
    settings: Settings = None,
    access: GivenAccess = NOTHING_GIVEN,
    wait: Wait = 0.0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Compare errors and latency with before, and take the canary or the promote back if need be.

    Ctrl-C ends watching and leaves everything as it is.
    """
    with _session(repository, endpoint, settings, access, True, wait, as_json) as session:
        if dry_run:
            session.show(session.rollout.plan_watch(app, seconds), dry_run)
        else:
            session.watch(app, seconds, asked=True)


class _Session:
    """One command: its rollout, and how it tells what happens."""

    def __init__(self, rollout: Rollout, reporter: _Reporter) -> None:
        self.rollout = rollout
        self._reporter = reporter

    @property
    def console(self) -> Any:
        """Where people read."""
        return self._reporter.console

    def show(self, plan: Plan, dry_run: bool) -> None:
        """Print a plan that was not carried out, or that it was."""
        self._reporter.plan(plan, dry_run)

    def watch(self, app: str, seconds: float | None, *, asked: bool = False) -> None:
        """Watch, where somebody wants it; a broken bound ends the command with 1."""
        if seconds is None and not asked:
            return
        verdict = self.rollout.watch(app, seconds)
        self._reporter.verdict(verdict.broken, verdict.text)
        if verdict.broken:
            raise typer.Exit(1)


@contextmanager
def _session(
    repository: Path,
    endpoints: list[str] | None,
    settings: Path | None,
    access: GivenAccess,
    skip_unreachable: bool,
    wait_s: float,
    as_json: bool,
    *,
    lenient: bool = False,
) -> Iterator[_Session]:
    """What a command works with; `lenient`: without ./rollout.toml where that cannot be read."""
    with needs("serve"):
        from tritium_deploy.rollout.fleet import DEFAULT_ENDPOINT
        from tritium_deploy.rollout.operator import Rollout

    with _Reporter(as_json) as reporter:
        try:
            with Rollout(
                repository,
                endpoints or [DEFAULT_ENDPOINT],
                settings=_settings(settings, lenient),
                admin_key=access.read_key(),
                tls=access.tls,
                skip_unreachable=skip_unreachable,
                wait_s=wait_s,
                on_step=reporter,
            ) as rollout:
                yield _Session(rollout, reporter)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        except TritiumError as error:
            reporter.fail(error)
            raise typer.Exit(1) from error
        except OSError as error:  # a write does not say of what: a full disk
            reporter.fail(RepositoryError(f"{error.filename or repository}: {error.strerror}"))
            raise typer.Exit(1) from error


def _settings(path: Path | None, lenient: bool) -> RolloutSettings | None:
    """Gates and bounds; None for the defaults. A slip of the pen there bars no way back."""
    from tritium_deploy.rollout.settings import read_settings

    try:
        return read_settings(path)
    except SettingsError:
        if path is not None or not lenient:
            raise
        return None


class _Reporter:
    """Prints steps: for people with a progress bar on a terminal, or as JSON lines."""

    def __init__(self, as_json: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._json = as_json
        self.console = Console(highlight=False)
        self._errors = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            console=self.console,
            transient=True,
            disable=as_json or not self.console.is_terminal,
        )
        self._task: Any = None

    def __enter__(self) -> _Reporter:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def __call__(self, event: StepEvent) -> None:
        """Tell one event."""
        if event.kind == "progress":
            self._count(event)
        elif self._json:
            _print_json({"event": event.kind, "text": event.text, "found": event.found})
        elif event.kind == "begin":
            self._say(event.text)
        elif event.found or event.kind == "note":
            self._say(f"  {event.found or event.text}")
        if event.kind == "end" and self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None

    def plan(self, plan: Plan, dry_run: bool) -> None:
        """Print what would be done, or that it was done."""
        if self._json:
            steps = [step.text for step in plan.steps]
            event = "plan" if dry_run else "done"
            _print_json({"event": event, "text": plan.title, "steps": steps, "notes": plan.notes})
            return
        if not dry_run:
            self._say(f"done: {plan.title}")
            return
        self._say(f"plan: {plan.title} (nothing was changed)")
        for number, step in enumerate(plan.steps, 1):
            self._say(f"  {number}. {step.text}")
        for note in plan.notes:
            self._say(f"  note: {note}")

    def verdict(self, broken: bool, text: str) -> None:
        """Print what watching came to."""
        if self._json:
            _print_json({"event": "taken_back" if broken else "watched", "text": text})
        else:
            self._say(f"taken back: {text}" if broken else f"watched: {text}")

    def fail(self, error: Exception) -> None:
        """Print why the command ends."""
        self._progress.stop()
        if self._json:
            text = " ".join(str(error).split())
            _print_json({"event": "error", "kind": type(error).__name__, "text": text})
        else:
            self._errors.print(f"error: {error}", soft_wrap=True, markup=False)

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False)

    def _count(self, event: StepEvent) -> None:
        if self._json:
            return
        if self._task is None:
            self._task = self._progress.add_task(event.text, total=event.total)
        self._progress.update(
            self._task, description=event.text, completed=event.done, total=event.total
        )


def _print_json(fields: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(fields, ensure_ascii=False) + "\n")
    sys.stdout.flush()
