"""Let a server finish what it has begun, and take nothing new."""

from __future__ import annotations

import threading
import time

from tritium_deploy.control import ModelControl
from tritium_deploy.errors import ControlError
from tritium_deploy.live import AppRelease

POLL_S = 0.02
SETTLE_S = 0.25
"""Between the last request's end in Triton and its answer's last byte on the wire."""


def linger(seconds: float, exited: threading.Event, abort: threading.Event) -> None:
    """Serve on for a while, so that load balancers see `/ready` say no before a request is refused.

    Args:
        seconds: How long.
        exited: Set when the server has ended; nobody waits for it then.
        abort: Ends the wait at once when set.
    """
    deadline = time.monotonic() + seconds
    while not exited.is_set():
        left = deadline - time.monotonic()
        if left <= 0 or abort.wait(min(left, POLL_S)):
            return


def drain(
    control: ModelControl,
    apps: tuple[AppRelease, ...],
    timeout_s: float,
    abort: threading.Event,
    routers: frozenset[str] = frozenset(),
) -> bool:
    """Unload what callers name, and wait until every request in flight is answered.

    SIGTERM alone would fail ensembles in flight; Triton finishes those of a model that is
    unloaded. The aliases go first: their requests still need the releases' ensembles.

    Args:
        control: The server.
        apps: What it serves.
        timeout_s: Seconds for all of it.
        abort: Ends the wait at once when set.
        routers: Models that ask the apps' own ensembles; they end first.

    Returns:
        Whether nothing was left in flight.
    """
    deadline = time.monotonic() + timeout_s
    aliases = {name for app in apps for name in app.entry_points}
    try:
        loaded = control.loaded_models()
        ensembles = {
            model for model in loaded - aliases if control.config(model).platform == "ensemble"
        }
        for group in (routers & loaded, aliases & loaded, ensembles):
            for model in group:
                control.unload(model)
            while group & control.loaded_models():
                if time.monotonic() > deadline or abort.wait(POLL_S):
                    return False
    except ControlError:
        # The server is gone or does not answer: nothing to wait for.
        return False
    abort.wait(SETTLE_S)
    return True
