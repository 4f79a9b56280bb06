"""Keep up with rollouts: notice what was loaded into this server, and what the repository wants.

A rollout loads releases and moves entry points from outside. A server that was down meanwhile, or
joined later, or never heard of it, finds in the repository what is live, and goes after it.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Mapping

from tritium_builders.aliases import live_rollout
from tritium_builders.errors import TritiumError
from tritium_builders.pending import read_pending
from tritium_builders.release import live_release
from tritium_client import contract
from tritium_deploy.control import ModelControl
from tritium_deploy.errors import UnsignedError
from tritium_deploy.events import Event, OnEvent
from tritium_deploy.live import AppRelease
from tritium_deploy.loading import load_beside, point
from tritium_deploy.readiness import StatusBoard
from tritium_deploy.rollout.lock import is_locked
from tritium_deploy.router import Router
from tritium_deploy.served import ServedApps, entry_point_configs

LOOK_S = 1.0
PATIENCE_S = 3.0
"""How long repository and server may differ with nobody at work on it: longer than between a
rollout's steps, and two looks."""
AGAIN_S = 10.0
"""Between attempts to go after a release that does not load."""

Pointed = tuple[int, contract.Rollout | None]
"""What entry points say: the release that they stand for, and a candidate beside it."""


class Follower:
    """Looks after one ready server's apps until it is told to stop.

    Args:
        control: The server's model control.
        served: What it serves; kept up to date.
        board: Where the apps' states are kept.
        parameters: App -> what the server says of itself in entry points.
        router: Kept up to date, too; None for none.
        response_cache: Whether entry points keep answers.
        load_timeout_s: For each model.
        on_event: Told what happens, from the follower's thread.
    """

    def __init__(
        self,
        control: ModelControl,
        served: ServedApps,
        board: StatusBoard,
        parameters: Mapping[str, Mapping[str, str]],
        router: Router | None = None,
        *,
        response_cache: bool,
        load_timeout_s: float,
        on_event: OnEvent,
    ) -> None:
        self._control = control
        self._served = served
        self._board = board
        self._parameters = parameters
        self._router = router
        self._response_cache = response_cache
        self._load_timeout_s = load_timeout_s
        self._on_event = on_event
        self._looking = threading.Lock()
        self._stop = threading.Event()
        self._differs_since: dict[str, float] = {}
        self._not_before: dict[str, float] = {}
        self._refused: set[str] = set()
        """Apps whose live release is not signed as the server wants it."""
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following."""
        self._stop.set()

    def look(self) -> None:
        """Find out what is loaded now; whoever just met an unexpected release asks for it."""
        self._look_at_all()

    def load_candidates(self) -> None:
        """After a start: load the candidates that entry points send a share of requests to.

        The live release answers in place of one that does not load.
        """
        for app in self._served.live:
            rollout = live_rollout(self._served.repository, app.name)
            if rollout is None or rollout.canary_percent + rollout.shadow_percent == 0:
                continue
            try:
                candidate = self._served.read(app.name, rollout.candidate)
                load_beside(self._control, candidate, self._load_timeout_s)
            except TritiumError as error:
                text = f"{app.name}: candidate release {rollout.candidate} does not load: {error}"
                self._tell("candidate_missing", text, app=app.name, release=rollout.candidate)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                for app, pointed in self._look_at_all().items():
                    self._follow(app, pointed)
            except TritiumError:
                continue  # the server is busy, or on its way out; the next look knows more

    def _look_at_all(self) -> dict[str, Pointed]:
        with self._looking:
            found = {}
            for app in self._served.live:
                with contextlib.suppress(UnsignedError):  # the board says so; others go on
                    found[app.name] = self._look_at(app.name)
            return found

    def _look_at(self, app: str) -> Pointed:
        number, rollout = pointed = self._pointed(app)
        graphs = re.compile(rf"{re.escape(self._served.main_entry_point(app))}_r(\d+)")
        matches = map(graphs.fullmatch, self._control.ready_models())
        beside = {int(match[1]) for match in matches if match is not None} - {number}
        before = self._served.release(app)
        live = self._read_live(app, number)
        candidates = {
            one: release
            for one in sorted(beside)
            if (release := self._read_if_there(app, one)) is not None
        }
        self._served.switch(live, list(candidates.values()), rollout)
        if self._router is not None:
            candidate = None if rollout is None else candidates.get(rollout.candidate)
            self._router.update(live, candidate, rollout)
        if number != before or app in self._refused:
            # What failed was the former release; golden samples tell of this one.
            self._board.forgive(app, f"release {number} has just become live")
            self._refused.discard(app)
        if number != before:
            self._board.set_release(app, number)
            text = f"{app}: release {number} is live in place of {before}"
            self._tell("switched", text, app=app, release=number, former=before)
        return pointed

    def _read_live(self, app: str, number: int) -> AppRelease:
        """What callers get; one that the server does not want was loaded past `tritium rollout`.

        Raises:
            UnsignedError: it is not signed; the app is not ready from now on.
        """
        try:
            return self._served.read(app, number)
        except UnsignedError as error:
            text = f"release {number} is live, and {error}"
            self._refused.add(app)
            if self._board.set(app, "failed", text, only_from=("ready", "unwell", "healing")):
                self._tell("unsigned", f"{app}: {text}", app=app, release=number)
            raise

    def _read_if_there(self, app: str, number: int) -> AppRelease | None:
        """None for a release that is loaded and whose files somebody has removed."""
        try:
            return self._served.read(app, number)
        except TritiumError:
            return None

    def _follow(self, app: str, pointed: Pointed) -> None:
        """Go after the repository, once it differs for longer than a rollout's next step takes."""
        repository = self._served.repository
        wanted = (live_release(repository, app), live_rollout(repository, app))
        if wanted[0] is None or wanted == pointed:
            self._differs_since.pop(app, None)
            return
        now = time.monotonic()
        at_work = read_pending(repository, app) is not None or is_locked(repository, app)
        since = self._differs_since.setdefault(app, now)
        if at_work or now < max(since + PATIENCE_S, self._not_before.get(app, 0.0)):
            if at_work:
                self._differs_since[app] = now
            return
        self._not_before[app] = now + AGAIN_S
        try:
            self._go_after(app, wanted[0], wanted[1])
        except TritiumError as error:
            text = f"{app}: the repository's release {wanted[0]} cannot be served here: {error}"
            self._tell("not_followed", text, app=app, release=wanted[0])

    def _go_after(self, app: str, number: int, rollout: contract.Rollout | None) -> None:
        release = self._served.read(app, number)
        load_beside(self._control, release, self._load_timeout_s)
        point(self._control, self._configs(release, rollout), self._load_timeout_s)
        self._tell(
            "followed",
            f"{app}: went after the repository, release {number} is live",
            app=app,
            release=number,
        )
        self.look()

    def _pointed(self, app: str) -> Pointed:
        """What the server's entry points say now."""
        config = self._control.config(self._served.main_entry_point(app))
        try:
            text = config.parameters[contract.PARAM_ROLLOUT].string_value
            rollout = contract.parse_rollout(text)
        except ValueError:
            rollout = None
        return int(config.parameters[contract.PARAM_RELEASE].string_value), rollout

    def _configs(
        self, release: AppRelease, rollout: contract.Rollout | None
    ) -> Mapping[str, object]:
        return entry_point_configs(
            self._served.repository,
            release,
            rollout,
            self._parameters[release.name],
            response_cache=self._response_cache,
        )

    def _tell(self, name: str, text: str, **fields: object) -> None:
        if not self._stop.is_set():
            self._on_event(Event.of(name, text, **fields))  # type: ignore[arg-type]
