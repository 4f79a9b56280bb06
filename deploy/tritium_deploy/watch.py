"""Notice dead, stopped and hung stubs, and bring their components back.

Triton never restarts a dead stub: every request to it fails after about a second, while server,
model and ensemble all say READY. The watcher looks at the processes themselves.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tritium_builders.errors import TritiumError
from tritium_deploy.control import ModelControl
from tritium_deploy.errors import ControlError, GoldenError, ReleaseError
from tritium_deploy.events import Event, OnEvent
from tritium_deploy.golden import GoldenReplay
from tritium_deploy.live import AppRelease
from tritium_deploy.metrics import ServerMetrics
from tritium_deploy.readiness import StatusBoard
from tritium_deploy.router import INSTANCES
from tritium_deploy.served import ServedApps
from tritium_deploy.stubs import Stub
from tritium_deploy.triton import Triton

POLL_S = 0.1
LISTING_S = 1.0
"""Between looks for stubs that were not there before; known ones are looked at every poll."""
STOPPED_S = 1.0
"""How long a stub may be stopped (SIGSTOP) before it counts as dead."""


@dataclass(frozen=True)
class WatchOptions:
    """When to heal, and when to stop trying."""

    deaths: int = 3
    """A component that dies more often than this within `window_s` is given up."""
    window_s: float = 60.0
    load_timeout_s: float = 120.0
    probe_every_s: float = 10.0
    """Between golden samples sent to a server that looks well, to notice hung stubs."""
    probe_timeout_s: float = 10.0
    pulse_every_s: float = 1.0
    """Between questions whether tritonserver answers at all."""
    silence_s: float = 2.5
    """How long it may take for that; load balancers have it out within 5 seconds."""
    replaced_s: float = 10.0
    """How long a healed component's other old stubs may finish their requests. Triton ends them
    then, unless one died amid a request: what such a request was given it keeps for ever, and the
    old instances with it."""


class DeathRecord:
    """How often each component died of late.

    Args:
        limit: Deaths within the window that are still healed.
        window_s: Length of the window in seconds.
        now: The clock.
    """

    def __init__(
        self, limit: int, window_s: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._window_s = window_s
        self._now = now
        self._deaths: defaultdict[str, deque[float]] = defaultdict(deque)

    def add(self, model: str) -> bool:
        """Note one death, and say whether the component should be healed once more."""
        deaths, now = self._deaths[model], self._now()
        deaths.append(now)
        while deaths[0] < now - self._window_s:
            deaths.popleft()
        return len(deaths) <= self._limit


class Watcher:
    """Watches one ready server until it is told to stop.

    Args:
        triton: The server.
        control: Its model control.
        replay: Its golden samples.
        served: What it serves.
        look: Finds out what it serves by now.
        board: Where the apps' states are kept.
        metrics: Counts restarts and probes.
        options: When to heal.
        on_event: Told what happens, from the watcher's threads.
        on_exit: Called once when tritonserver ends by itself.
    """

    def __init__(
        self,
        triton: Triton,
        control: ModelControl,
        replay: GoldenReplay,
        served: ServedApps,
        look: Callable[[], None],
        board: StatusBoard,
        metrics: ServerMetrics,
        options: WatchOptions,
        on_event: OnEvent,
        on_exit: Callable[[], None],
    ) -> None:
        self._triton = triton
        self._control = control
        self._replay = replay
        self._served = served
        self._look = look
        self._board = board
        self._metrics = metrics
        self._options = options
        self._on_event = on_event
        self._on_exit = on_exit
        self._stop = threading.Event()
        self._deaths = DeathRecord(options.deaths, options.window_s)
        self._given_up: dict[str, str] = {}
        """Component -> why it is not started again; for as long as a loaded release has it."""
        self._ends: dict[str, str] = {}
        """How a component's processes ended the last time."""
        self._known = {stub.pid: stub for stub in triton.stubs()}
        self._listed_at = time.monotonic()
        self._replaced: dict[int, float] = {}
        """Stubs that a heal has replaced, and since when: they answer nothing new."""
        self._stopped_since: dict[int, float] = {}
        self._threads = [
            threading.Thread(target=target, name=target.__name__, daemon=True)
            for target in (self._watch, self._probe, self._feel_pulse)
        ]

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop healing and probing; a heal under way ends when its server does."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(POLL_S):
            if self._triton.exited.is_set():
                if not self._stop.is_set():
                    self._on_exit()
                return
            self._kill_stopped()
            self._kill_replaced()
            a_death = not all(stub.alive for stub in self._known.values())
            if a_death or time.monotonic() - self._listed_at > LISTING_S:
                self._listed_at = time.monotonic()
                self._handle(self._list())

    def _list(self) -> list[Stub]:
        """Look which stubs there are, clean up after those that are gone, and return these."""
        before, self._known = self._known, {stub.pid: stub for stub in self._triton.stubs()}
        gone = [stub for pid, stub in before.items() if pid not in self._known]
        for stub in gone:
            self._triton.forget(stub)
        return gone

    def _handle(self, dead: list[Stub]) -> None:
        """Heal what is short of stubs now, whether or not its death was seen.

        A death is not taken as gone by when it could not be healed at once: the next look finds
        the component short again.
        """
        components = {model for app in self._served.loaded for model in app.components}
        components |= self._served.helpers
        self._keep_given_up(components)
        sick = {model for model in components - self._given_up.keys() if self._is_missed(model)}
        if self._triton.exited.is_set() or self._stop.is_set():
            return
        heal = []
        for model in sorted(sick):
            gone = [stub for stub in dead if stub.model == model]
            self._ends[model] = ", ".join(sorted({stub.end for stub in gone} - {""}))
            how = f" ({self._ends[model]})" if self._ends[model] else ""
            self._tell(
                "stub_died",
                f"{model}: its stub process died{how}",
                model=model,
                pids=[stub.pid for stub in gone],
                ended=self._ends[model],
            )
            if self._deaths.add(model):
                heal.append(model)
            else:
                self._give_up(model, "")
        if heal:
            self._heal(heal)

    def _keep_given_up(self, components: set[str]) -> None:
        """A release that became live with a component that was given up before has failed, too."""
        kept = {model: why for model, why in self._given_up.items() if model in components}
        self._given_up = kept
        for model, why in kept.items():
            for app in self._users(model):
                self._board.set(app.name, "failed", why)

    def _is_missed(self, model: str) -> bool:
        """Tell a death from the planned end of an unloaded or replaced model."""
        running = sum(
            stub.model == model for pid, stub in self._known.items() if pid not in self._replaced
        )
        loaded = (app for app in self._served.loaded if model in app.components)
        expected = next((app.instances[model] for app in loaded), INSTANCES)
        return running < expected and self._control.is_ready(model)

    def _heal(self, models: list[str]) -> None:
        started = time.monotonic()
        users = {app.name: app for model in models for app in self._users(model)}
        for app in users.values():
            names = ", ".join(model for model in models if model in app.components)
            self._board.set(app.name, "healing", f"a stub process of {names} died")
        with ThreadPoolExecutor(len(models), thread_name_prefix="heal") as pool:
            healed = list(pool.map(self._restart, models))
        # The new stubs have to be known before the next poll, or a quick second death is missed.
        self._list()
        for app in users.values():
            if all(ok for model, ok in zip(models, healed, strict=True) if model in app.components):
                self._confirm(app, time.monotonic() - started)

    def _restart(self, model: str) -> bool:
        """Start a component again, as often as its record allows."""
        while not self._stop.is_set() and not self._triton.exited.is_set():
            before = {stub.pid for stub in self._triton.stubs() if stub.model == model}
            try:
                self._control.restart(model, self._options.load_timeout_s)
            except ControlError as error:
                if not self._deaths.add(model):
                    self._give_up(model, error.reason)
                    return False
            else:
                now = time.monotonic()
                self._replaced.update((pid, now) for pid in before)
                self._metrics.restarted(model)
                return True
        return False

    def _confirm(self, app: AppRelease, seconds: float) -> None:
        try:
            self._replay.check(app, samples=1, timeout_s=self._options.probe_timeout_s)
        except ReleaseError:  # it was switched meanwhile; the next probe asks the other one
            self._look_again()
            self._board.set_ready(app.name, healed=True)
        except GoldenError as error:
            # The next poll, or the next probe, finds out whether this lasts.
            self._board.set(app.name, "unwell", str(error))
            self._tell("unwell", f"{app.name}: {error}", app=app.name, reason=str(error))
        else:
            self._board.set_ready(app.name, healed=True)
            self._tell(
                "healed", f"{app.name}: healed in {seconds:.1f} s", app=app.name, seconds=seconds
            )

    def _give_up(self, model: str, reason: str) -> None:
        tail = reason or self._triton.log_tail(about=model) or "no word of it in the log"
        limit, window = self._options.deaths, self._options.window_s
        how = f" (the last time: {self._ends[model]})" if self._ends.get(model) else ""
        text = (
            f"component {model} died more than {limit} times in {window:.0f} s and is not "
            f"restarted again{how}: {tail}; see {self._triton.log}"
        )
        self._given_up[model] = text
        for app in self._users(model):
            self._board.set(app.name, "failed", text)
        self._tell("given_up", text, model=model, log=str(self._triton.log), tail=tail)

    def _kill_stopped(self) -> None:
        now = time.monotonic()
        for pid, stub in self._known.items():
            if not stub.stopped:
                self._stopped_since.pop(pid, None)
            elif now - self._stopped_since.setdefault(pid, now) > STOPPED_S:
                stub.kill()

    def _kill_replaced(self) -> None:
        now = time.monotonic()
        self._replaced = {pid: since for pid, since in self._replaced.items() if pid in self._known}
        for pid, since in self._replaced.items():
            if now - since > self._options.replaced_s:
                self._known[pid].kill()

    def _probe(self) -> None:
        misses: dict[str, int] = defaultdict(int)
        while not self._stop.wait(self._options.probe_every_s):
            for app in self._served.live:
                if self._board.state(app.name) not in ("ready", "unwell"):
                    misses[app.name] = 0
                    continue
                began = time.monotonic()
                try:
                    self._replay.check(app, samples=1, timeout_s=self._options.probe_timeout_s)
                except ReleaseError:
                    self._look_again()
                except GoldenError as error:
                    misses[app.name] += 1
                    self._metrics.probe_failed(app.name)
                    self._note_miss(app, error, misses[app.name])
                else:
                    misses[app.name] = 0
                    self._metrics.probed(app.name, time.monotonic() - began)
                    self._note_answer(app)

    def _feel_pulse(self) -> None:
        """Notice a tritonserver that hangs long before golden samples do."""
        answered = True
        while not self._stop.wait(self._options.pulse_every_s):
            before, answered = answered, self._control.live(self._options.silence_s)
            if self._stop.is_set() or (not answered and self._triton.exited.wait(POLL_S)):
                return
            if not answered:
                self._note_silence()
            elif not before:
                self._note_return()

    def _note_silence(self) -> None:
        reason = f"tritonserver has not answered for {self._options.silence_s:g} s"
        for app in self._served.live:
            if self._board.set(app.name, "unwell", reason, only_from=["ready"]):
                self._tell("unwell", f"{app.name}: {reason}", app=app.name, reason=reason)

    def _note_return(self) -> None:
        """What it answers is for golden samples to say; those that are missed are asked again."""
        for app in self._served.live:
            with contextlib.suppress(GoldenError):
                self._replay.check(app, samples=1, timeout_s=self._options.probe_timeout_s)
                self._note_answer(app)

    def _look_again(self) -> None:
        with contextlib.suppress(TritiumError):
            self._look()

    def _note_miss(self, app: AppRelease, error: GoldenError, misses: int) -> None:
        # One miss may be a crowded moment; a wrong answer comes back wrong the second time too.
        if misses < 2:
            return
        if self._board.set(app.name, "unwell", str(error), only_from=["ready"]):
            self._tell("unwell", f"{app.name}: {error}", app=app.name, reason=str(error))

    def _note_answer(self, app: AppRelease) -> None:
        recovered = self._board.set_ready(app.name, only_from=["unwell"])
        if recovered:
            self._tell("recovered", f"{app.name}: answers golden samples again", app=app.name)
        else:
            self._board.set_ready(app.name, only_from=["ready"])

    def _users(self, model: str) -> Iterable[AppRelease]:
        """Those whose callers miss it; a candidate's own components are missed by none."""
        return [app for app in self._served.live if model in app.components]

    def _tell(self, name: str, text: str, **fields: object) -> None:
        if not self._stop.is_set():
            self._on_event(Event.of(name, text, **fields))  # type: ignore[arg-type]
