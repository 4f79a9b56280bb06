"""Bring a release into a running server beside the one that is live, and take one out again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tritium_client import contract
from tritium_deploy.control import ModelControl
from tritium_deploy.errors import ControlError
from tritium_deploy.live import AppRelease

LOADS_IN_FLIGHT = 4
POLL_S = 0.05
UNLOAD_WAIT_S = 10.0
"""For what was loaded in vain, and has no requests."""


def missing_models(control: ModelControl, app: AppRelease) -> tuple[list[str], list[str]]:
    """What of a release a server has not loaded: components, and the release's own ensembles.

    Raises:
        ControlError: the server does not answer.
    """
    ready = control.ready_models()
    return sorted(set(app.components) - ready), sorted(set(app.graphs) - ready)


def load_beside(
    control: ModelControl,
    app: AppRelease,
    timeout_s: float,
    on_load: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Load what a server lacks of a release. What it has goes on as it is.

    Args:
        control: The server.
        app: The release, with the configs that this server runs it with.
        timeout_s: Seconds for each model.
        on_load: Told each model that was loaded, from several threads.

    Returns:
        The models that were loaded.

    Raises:
        ControlError: one does not load. What was loaded until then is unloaded again.
    """
    loaded: list[str] = []

    def load(model: str) -> None:
        control.load(model, timeout_s, app.configs.get(model))
        loaded.append(model)
        on_load(model)

    components, graphs = missing_models(control, app)
    try:
        with ThreadPoolExecutor(LOADS_IN_FLIGHT, thread_name_prefix="load") as pool:
            # The list waits for all of them before the first error is raised.
            for done in [pool.submit(load, model) for model in components]:
                done.result()
        for graph in graphs:
            load(graph)
    except BaseException:
        failed = [model for model in (*components, *graphs) if model not in loaded]
        unload(control, [*reversed(loaded), *failed], UNLOAD_WAIT_S)
        raise
    return loaded


def point(control: ModelControl, configs: Mapping[str, Any], timeout_s: float) -> None:
    """Load what callers name; the main entry point last, as it says what is live.

    Raises:
        ControlError: one does not load; Triton goes on with what it had under that name.
    """
    for name in reversed(list(configs)):
        control.load(name, timeout_s, configs[name])


def unload(control: ModelControl, models: Iterable[str], wait_s: float = 0.0) -> None:
    """Unload models, the ensembles among them first; what is not there is unloaded already.

    Args:
        control: The server; one that does not answer has nothing loaded.
        models: In any order.
        wait_s: Seconds to wait until they have finished the requests that they have.
    """
    ordered = sorted(models, key=lambda model: contract.role_of(model) is not None)
    for model in ordered:
        with contextlib.suppress(ControlError):
            control.unload(model)
    deadline = time.monotonic() + wait_s
    with contextlib.suppress(ControlError):
        while time.monotonic() < deadline and set(ordered) & control.loaded_models():
            time.sleep(POLL_S)
