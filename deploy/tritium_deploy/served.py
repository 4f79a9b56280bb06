"""What a server serves by now: rollouts change it while the server runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tritium_builders.configs import alias_ensemble
from tritium_builders.signing import TrustedKeys
from tritium_client import contract
from tritium_deploy.live import AppRelease, on_machine, read_app_release, read_config
from tritium_deploy.machine import Machine


class ServedApps:
    """The live release of every app, and releases that are loaded beside them.

    Safe to use from several threads: each look finds one state or the next.

    Args:
        repository: Where releases lie.
        live: What is served, as this machine runs it.
        machines: App -> how this machine runs its releases.
        trusted: Who must have signed releases; None: they need no signature.
    """

    def __init__(
        self,
        repository: Path,
        live: Sequence[AppRelease],
        machines: Mapping[str, Machine],
        trusted: TrustedKeys | None = None,
    ) -> None:
        self.repository = repository
        self.machines = machines
        self.trusted = trusted
        self._lock = threading.Lock()
        self._live = {app.name: app for app in live}
        self._beside: dict[str, tuple[AppRelease, ...]] = {}
        self._rollouts: dict[str, contract.Rollout | None] = {}
        self.helpers: frozenset[str] = frozenset()
        """Models that belong to no release, and whose processes are healed as well."""

    @property
    def live(self) -> tuple[AppRelease, ...]:
        """What callers get."""
        with self._lock:
            return tuple(self._live.values())

    @property
    def loaded(self) -> tuple[AppRelease, ...]:
        """Everything whose processes run: what callers get, and candidates beside it."""
        with self._lock:
            return (*self._live.values(), *(app for one in self._beside.values() for app in one))

    def beside(self, app: str) -> tuple[AppRelease, ...]:
        """An app's releases that are loaded beside its live one."""
        with self._lock:
            return self._beside.get(app, ())

    def rollout(self, app: str) -> contract.Rollout | None:
        """What an app's entry points say of a candidate; None where they name none."""
        with self._lock:
            return self._rollouts.get(app)

    def release(self, app: str) -> int:
        """The number of an app's live release."""
        with self._lock:
            return self._live[app].release.number

    def main_entry_point(self, app: str) -> str:
        """The entry point of an app whose config says what is live."""
        with self._lock:
            return self._live[app].release.main_entry_point

    def read(self, app: str, number: int) -> AppRelease:
        """Read any release of an app, as this machine runs it.

        Raises:
            RepositoryError: naming what is missing or wrong.
            UnsignedError: it is not signed as the server wants it.
            TuningError: the machine's tuning file does not fit it.
        """
        with self._lock:
            known = [self._live[app], *self._beside.get(app, ())]
        for one in known:
            if one.release.number == number:
                return one
        found = read_app_release(self.repository, app, number, trusted=self.trusted)
        return on_machine(found, self.machines[app], self.repository)

    def switch(
        self, app: AppRelease, beside: Sequence[AppRelease], rollout: contract.Rollout | None
    ) -> None:
        """Note what became live, what is loaded beside it, and its share."""
        with self._lock:
            self._live[app.name] = app
            self._beside[app.name] = tuple(beside)
            self._rollouts[app.name] = rollout


def entry_point_configs(
    repository: Path,
    app: AppRelease,
    rollout: contract.Rollout | None,
    parameters: Mapping[str, str],
    *,
    response_cache: bool,
) -> dict[str, Any]:
    """What callers name, for one server: entry point -> the `ModelConfig` to load it with.

    Args:
        repository: Where the release's graphs lie.
        app: The release that they shall stand for.
        rollout: A candidate beside it.
        parameters: What the server says of itself.
        response_cache: Whether answers are kept.
    """
    configs = {}
    for given in app.release.entry_points:
        graph = read_config(repository, app.release.graph(given))
        config = alias_ensemble(graph, app.release.number, rollout)
        for name, value in parameters.items():
            config.parameters[name].string_value = value
        config.response_cache.enable = response_cache
        configs[config.name] = config
    names = json.dumps(list(configs))
    for config in configs.values():
        config.parameters[contract.PARAM_SERVER_ENTRY_POINTS].string_value = names
    return configs


def server_parameters(
    machine: Machine,
    apps: Sequence[str],
    accelerator: Mapping[str, str],
    trusted: TrustedKeys | None = None,
) -> dict[str, str]:
    """What a server says of itself in the entry points that it loads."""
    return {
        **accelerator,
        **({} if trusted is None else {contract.PARAM_SERVER_TRUSTED_KEYS: trusted.text}),
        contract.PARAM_SERVER_APPS: json.dumps(list(apps)),
        contract.PARAM_SERVER_MACHINE: machine.model_dump_json(exclude_defaults=True),
    }
