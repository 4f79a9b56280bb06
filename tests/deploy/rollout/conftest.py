"""A server with the tiny app's release 1, and a second release that waits for its rollout."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.calls import ask
from tests.deploy.tiny_repository import TinyApp, publish, publish_candidate
from tritonclient.grpc import InferenceServerClient

from tritium_deploy import Ports, Server, serve
from tritium_deploy.rollout import Rollout, RolloutSettings
from tritium_deploy.rollout.plan import StepEvent
from tritium_deploy.rollout.settings import GateSettings

QUICK = RolloutSettings(gates=GateSettings(latency_ratio=20, latency_pairs=20))
"""Latencies of a machine that is busy with other tests say nothing."""
APPLE = {"text": b"red apple", "image": b"picture"}
LIVE = TinyApp(labelled=20)
CANDIDATE = TinyApp(number=2, bias=0.6, labelled=20)
DOOMED = multiprocessing.get_context("forkserver")
"""Starts processes that are to be killed. None inherits a channel of gRPC, which does not survive
a fork, and none but the first takes a second to import what it needs."""
DOOMED.set_forkserver_preload(["tritium_deploy.rollout", "tritonclient.grpc", "pytest"])


@dataclass
class Log:
    """What a rollout did."""

    events: list[StepEvent] = field(default_factory=list)

    def __call__(self, event: StepEvent) -> None:
        """Keep an event."""
        self.events.append(event)

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join(f"{event.kind} {event.text} {event.found}" for event in self.events)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Release 1 is live, release 2 has other heads and as good answers."""
    folder = tmp_path / "repository"
    folder.mkdir()
    publish(folder, LIVE)
    publish_candidate(folder, CANDIDATE)
    return folder


@pytest.fixture
def start(repository: Path) -> Iterator[Callable[..., Server]]:
    """Start servers of `repository` that are closed after the test."""
    with ExitStack() as stack:

        def begin(**arguments: Any) -> Server:
            arguments.setdefault("ports", Ports.free())
            return stack.enter_context(serve(repository, **arguments))

        yield begin


@pytest.fixture
def server(start: Callable[..., Server]) -> Server:
    """One ready server."""
    return start()


@pytest.fixture
def log() -> Log:
    """What the `rollout` fixture does."""
    return Log()


@pytest.fixture
def rollout(repository: Path, server: Server, log: Log) -> Iterator[Rollout]:
    """For that server."""
    with Rollout(repository, [server.grpc_url], settings=QUICK, on_step=log) as one:
        yield one


def answered_by(server: Server) -> set[str]:
    """The releases that answer callers of a server, by any of its entry points."""
    with InferenceServerClient(server.grpc_url) as client:
        return {
            ask(client, "tiny_classify", APPLE)[1],
            ask(client, "tiny_classify_text", {"text": APPLE["text"]})[1],
            ask(client, "tiny_classify_image", {"image": APPLE["image"]})[1],
        }
