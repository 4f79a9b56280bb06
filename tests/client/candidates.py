"""A transport with an app that has a candidate: what was sent is seen, and anything can fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tritium_client import AppNotFound, AsyncMockTransport, MockApp, MockTransport, contract
from tritium_client._call import Call
from tritium_client._mock import respond
from tritium_client._options import Method
from tritium_client.contract import Rollout

LIVE_LABELS = ("cat", "dog")
NEW_LABELS = ("dog", "bird", "cat")
KEYS = [f"user-{number}" for number in range(200)]
ALIAS, CANDIDATE = "pets_classify_text", "pets_classify_text_r2"

Hook = Callable[[Any, Call], None]
"""Called with a request and its call before it is answered; may raise or wait."""


def pets(**changes: Any) -> MockApp:
    """Release 1 says cat, its candidate dog; half of the keys are the candidate's."""
    new = MockApp(labels=NEW_LABELS, answer=lambda *_: [0.7, 0.1, 0.2], release=2)
    live = MockApp(
        labels=LIVE_LABELS, answer=lambda *_: [0.9, 0.1], candidate=new, canary_percent=50
    )
    return replace(live, **changes)


class Seen:
    """What a transport was asked, and what happens before it answers."""

    def __init__(self) -> None:
        self.sent: list[tuple[Method, str]] = []
        """Method and Triton model, in order."""
        self.calls: list[Call] = []
        """The call of each."""
        self.hooks: dict[tuple[Method, str], Hook] = {}
        self.rollout: str | None = None
        """What the aliases' configs say in place of the app's own; None for that."""
        self.wire_version: str | None = None
        """Of the candidate's own ensemble; None for this package's."""
        self._lock = threading.Lock()

    def count(self, method: Method, model: str) -> int:
        """How often a model was asked."""
        return self.sent.count((method, model))

    def fail(self, method: Method, model: str, error: Exception) -> None:
        """Let requests of a model fail from now on."""

        def fails(request: Any, call: Call) -> None:
            raise error

        self.hooks[method, model] = fails

    def wait(self, method: Method, model: str) -> threading.Event:
        """Let requests of a model wait from now on, until the event is set."""
        event = threading.Event()

        def waits(request: Any, call: Call) -> None:
            assert event.wait(20)

        self.hooks[method, model] = waits
        return event

    def hang(self, method: Method, model: str) -> None:
        """Let requests of a model wait for their own deadline from now on."""

        def hangs(request: Any, call: Call) -> None:
            time.sleep(max(0.0, call.left_s))
            call.remaining_s()

        self.hooks[method, model] = hangs

    def begin(self, method: Method, request: Any, call: Call) -> None:
        """Note a request, and do what is to happen before its answer."""
        model = request.model_name if method == "ModelInfer" else request.name
        with self._lock:
            self.sent.append((method, model))
            self.calls.append(call)
        hook = self.hooks.get((method, model))
        if hook is not None:
            hook(request, call)

    def end(self, method: Method, request: Any, answer: Any) -> Any:
        """Change an answer as it shall be."""
        if method == "ModelConfig":
            parameters = answer.config.parameters
            if self.rollout is not None and not request.name[-1].isdigit():
                parameters[contract.PARAM_ROLLOUT].string_value = self.rollout
            if self.wire_version is not None and request.name.endswith("_r2"):
                parameters[contract.PARAM_WIRE_VERSION].string_value = self.wire_version
        return answer


class Transport(MockTransport):
    """For `Client`."""

    def __init__(self, app: MockApp | None = None) -> None:
        super().__init__({})
        self.seen = Seen()
        self.apps = {"pets": app or pets()}
        """May change between calls."""

    def send(self, method: Method, request: Any, call: Call, **_: Any) -> Any:
        if hasattr(request, "name") or method == "ModelInfer":
            self.seen.begin(method, request, call)
        super().send("ServerLive", request, call)  # the deadline, and whether it is closed
        return self.seen.end(method, request, respond(self.apps, method, request, call))


class AsyncTransport(AsyncMockTransport):
    """For `AsyncClient`; a model in `held` waits until its event is set."""

    def __init__(self, app: MockApp | None = None) -> None:
        super().__init__({})
        self.seen = Seen()
        self.apps = {"pets": app or pets()}
        self.held: dict[tuple[Method, str], Any] = {}
        """An asyncio.Event for each."""

    async def send(self, method: Method, request: Any, call: Call, **_: Any) -> Any:
        self.seen.begin(method, request, call)
        event = self.held.get(self.seen.sent[-1])
        if event is not None:
            await event.wait()
        await super().send("ServerLive", request, call)
        return self.seen.end(method, request, respond(self.apps, method, request, call))


def not_loaded() -> AppNotFound:
    """What a server says of a model that it has unloaded, or is loading."""
    error = AppNotFound("it is not loaded")
    error.retryable = True
    return error


def taken(keys: list[str], percent: float = 50.0) -> set[str]:
    """Those of the keys that the candidate of `pets` takes."""
    rollout = Rollout(2, percent)
    return {key for key in keys if rollout.takes(key)}


def key_of(*, candidate: bool) -> str:
    """A key that the candidate of `pets` takes, or one that it does not."""
    return next(key for key in KEYS if (key in taken(KEYS)) == candidate)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something has happened."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
