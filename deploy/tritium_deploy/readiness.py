"""What the server can say of itself, and the small HTTP port that says it.

Triton's own readiness knows nothing of dead stubs: with one killed, server, model and ensemble all
report READY while every request fails. So `/live` and `/ready` come from here.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, get_args

from tritium_deploy.errors import PortTakenError
from tritium_deploy.ports import require_free
from tritium_deploy.step_metrics import CONTENT_TYPE

State = Literal["loading", "ready", "healing", "unwell", "failed", "draining"]
"""`unwell`: golden samples are not answered; ready again when they are. `failed`: given up until
another release is live."""
STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True)
class AppStatus:
    """One app as callers would find it."""

    app: str
    release: int
    state: State = "loading"
    reason: str = ""
    """Why it is not ready; empty when it is."""
    golden_at: str | None = None
    """When golden samples were last answered rightly, ISO 8601, UTC."""
    heals: int = 0
    """How many times dead stubs of it were replaced."""


class StatusBoard:
    """The status of every app; safe to use from several threads.

    Args:
        apps: Name -> live release number.
    """

    def __init__(self, apps: dict[str, int]) -> None:
        self._lock = threading.Lock()
        self._statuses = {app: AppStatus(app, release) for app, release in apps.items()}
        self._draining = False

    def set(
        self, app: str, state: State, reason: str = "", *, only_from: Collection[State] = STATES
    ) -> bool:
        """Change one app's state. A draining server stays so, and a failed app as well.

        Args:
            app: Its name.
            state: The new state.
            reason: Why it is not ready.
            only_from: Change nothing unless the app is in one of these.

        Returns:
            Whether the state was changed.
        """
        return self._change(app, only_from, lambda old: replace(old, state=state, reason=reason))

    def set_ready(
        self, app: str, *, healed: bool = False, only_from: Collection[State] = STATES
    ) -> bool:
        """Note that golden samples were just answered; arguments and answer as for `set`."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")

        def ready(old: AppStatus) -> AppStatus:
            heals = old.heals + int(healed)
            return replace(old, state="ready", reason="", golden_at=now, heals=heals)

        return self._change(app, only_from, ready)

    def set_release(self, app: str, release: int) -> None:
        """Note that another release of an app is live."""
        with self._lock:
            self._statuses[app] = replace(self._statuses[app], release=release)

    def forgive(self, app: str, reason: str) -> None:
        """Give a failed app another chance: it is unwell until golden samples are answered."""
        with self._lock:
            old = self._statuses[app]
            if old.state == "failed":
                self._statuses[app] = replace(old, state="unwell", reason=reason)

    def drain(self, reason: str) -> None:
        """Mark every app as leaving; nothing becomes ready after this."""
        with self._lock:
            self._draining = True
            self._statuses = {
                app: replace(status, state="draining", reason=reason)
                for app, status in self._statuses.items()
            }

    def state(self, app: str) -> State:
        """The state of one app."""
        with self._lock:
            return self._statuses[app].state

    def statuses(self) -> tuple[AppStatus, ...]:
        """A consistent copy of all of them."""
        with self._lock:
            return tuple(self._statuses.values())

    @property
    def ready(self) -> bool:
        """Whether every app answers."""
        statuses = self.statuses()
        return bool(statuses) and all(status.state == "ready" for status in statuses)

    def _change(
        self, app: str, only_from: Collection[State], change: Callable[[AppStatus], AppStatus]
    ) -> bool:
        with self._lock:
            old = self._statuses[app]
            if self._draining or old.state == "failed" or old.state not in only_from:
                return False
            self._statuses[app] = change(old)
            return True


class ReadinessServer:
    """Answers GET /live and GET /ready with 200 or 503 and a JSON body, and GET /metrics.

    Args:
        host: The address to bind.
        port: The port to bind.
        board: What `/ready` reports.
        alive: What `/live` reports.
        metrics: What `/metrics` gives, in Prometheus' text format.
    """

    def __init__(
        self,
        host: str,
        port: int,
        board: StatusBoard,
        alive: Callable[[], bool],
        metrics: Callable[[], bytes] = bytes,
    ) -> None:
        require_free("ready", host, port)
        try:
            self._server = _HTTPServer((host, port), _handler(board, alive, metrics))
        except OSError as error:
            raise PortTakenError("ready", host, port) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.1},
            name="readiness",
            daemon=True,
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore callers that hang up; a probe's trouble is no business of the terminal."""


def _handler(
    board: StatusBoard, alive: Callable[[], bool], metrics: Callable[[], bytes]
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5  # A caller that connects and says nothing does not hold a thread for ever.

        def do_GET(self) -> None:
            if self.path == "/live":
                good = alive()
                self._answer(200 if good else 503, {"live": good})
            elif self.path == "/ready":
                good = alive() and board.ready
                statuses = {status.app: asdict(status) for status in board.statuses()}
                self._answer(200 if good else 503, {"ready": good, "apps": statuses})
            elif self.path == "/metrics":
                self._send(200, metrics(), CONTENT_TYPE)
            else:
                self._answer(404, {"error": "ask for /live, /ready or /metrics"})

        def _answer(self, code: int, body: dict[str, object]) -> None:
            self._send(code, json.dumps(body).encode() + b"\n", "application/json")

        def _send(self, code: int, content: bytes, kind: str) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - stdlib's name
            """Keep probes off the terminal."""

    return Handler
