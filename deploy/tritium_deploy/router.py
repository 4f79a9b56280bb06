"""An entry point for callers without the SDK that makes a canary's split on the server.

Its models lie in the server's own run folder, not in the repository: every server that was started
with `--router` has its own, and keeps it up to date as it follows rollouts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from tritium_builders import servables
from tritium_builders.configs import MAX_BATCH, let_requests_queue, to_pbtxt
from tritium_builders.durable import replace_file
from tritium_builders.samples import modalities_key
from tritium_client import contract
from tritium_deploy.live import AppRelease

VERB: contract.Verb = "classify"
"""What routers do: callers of other apps have the SDK, which makes the same split."""
INSTANCES = 2
"""Each answers a batch of requests side by side; with two, one gathers while the other waits."""


class Router:
    """The routers of one server.

    Args:
        folder: A model repository of their own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: dict[str, str] = {}

    @property
    def models(self) -> frozenset[str]:
        """The Triton models."""
        return frozenset(contract.router(app) for app in self._written)

    def write(self, apps: Iterable[AppRelease]) -> None:
        """Write a model for each app that classifies; the split itself comes with `update`."""
        source = Path(servables.__file__).with_name("router.py").read_bytes()
        for app in apps:
            if app.release.verb != VERB:
                continue
            folder = self._folder / contract.router(app.name)
            (folder / "1").mkdir(parents=True)
            (folder / "1" / "model.py").write_bytes(source)
            (folder / "config.pbtxt").write_text(to_pbtxt(self._config(app.name)), "utf-8")

    def update(
        self, app: AppRelease, candidate: AppRelease | None, rollout: contract.Rollout | None
    ) -> None:
        """Tell an app's router who answers.

        Args:
            app: The live release.
            candidate: The one beside it, where it is loaded.
            rollout: Its share.
        """
        if app.release.verb != VERB:
            return
        split = {
            "live": _target(app),
            "candidate": None if candidate is None else _target(candidate),
            "percent": 0.0 if rollout is None else rollout.canary_percent,
            "salt": "" if rollout is None else rollout.salt,
        }
        text = json.dumps(split)
        if self._written.get(app.name) != text:
            replace_file(self._split(app.name), text)
            self._written[app.name] = text

    def _split(self, app: str) -> Path:
        return self._folder / f"{app}.split.json"

    def _config(self, app: str) -> pb.ModelConfig:
        config = pb.ModelConfig(
            name=contract.router(app), backend="python", max_batch_size=MAX_BATCH
        )
        for name in (*contract.MODALITIES, contract.ROUTE_KEY):
            config.input.add(name=name, data_type=pb.TYPE_STRING, dims=[1], optional=True)
        config.output.add(name=contract.PROBABILITIES, data_type=pb.TYPE_FP32, dims=[-1])
        config.output.add(name=contract.RELEASE, data_type=pb.TYPE_INT64, dims=[1])
        config.output.add(name=contract.LABEL, data_type=pb.TYPE_STRING, dims=[1])
        let_requests_queue(config)
        config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=INSTANCES)
        config.parameters["split"].string_value = str(self._split(app))
        return config


def _target(app: AppRelease) -> dict[str, Any]:
    return {
        "release": app.release.number,
        "labels": app.release.labels,
        "models": {modalities_key(given): graph for graph, given in app.graphs.items()},
    }
