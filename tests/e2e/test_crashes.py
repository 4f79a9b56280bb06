"""Crashes under load: typed errors, a healed app, and no server that freezes.

Why the graph has one step in flight at a time:
docs/decisions/steps-come-one-after-the-other.md.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import TARGET, Fold
from tests.support.pictures import png
from tritium_client import Client, InvalidInput, ServerUnavailable
from tritium_client.contract import Role
from tritium_deploy import Ports, Server, serve
from tritium_deploy.server import ServeOptions
from tritium_deploy.watch import WatchOptions

pytestmark = pytest.mark.e2e

FULL = bool(os.environ.get("TRITIUM_TEST_FULL"))
KILLS = 40 if FULL else 6
REFUSED = 2_000 if FULL else 120
STUBS: tuple[Role, ...] = (
    ("image_decoder", "text_tokenizer") if TARGET == "tensorrt" else ("encoders", "fusion_head")
)
"""Components with a process of their own; a plan runs inside tritonserver."""
HEALED_WITHIN_S = 5.0
CALLERS = 6


@pytest.fixture(scope="module")
def doomed(folds: tuple[Fold, ...], repository: Path) -> Iterator[Server]:
    """A server of its own, whose stubs may be killed as often as it takes."""
    options = ServeOptions(watch=WatchOptions(deaths=10 * KILLS))
    with serve(repository, ports=Ports.free(), apps=["openmoji"], options=options) as server:
        yield server


@pytest.fixture(scope="module")
def seen_not_ready() -> Counter[str]:
    """How often /ready said 503 after a kill, by role."""
    return Counter()


@contextmanager
def load(server: Server, image: bytes) -> Iterator[Counter[str]]:
    """Callers that ask for text + picture without a pause, and count what they get."""
    seen: Counter[str] = Counter()
    stop = threading.Event()

    def call(client: Client, number: int) -> None:
        while not stop.is_set():
            try:
                client.classify(text="red apple " * (number + 1), image=image, timeout_s=10)
                seen["answered"] += 1
            except ServerUnavailable as error:
                seen["retryable" if error.retryable else "not retryable"] += 1

    with Client(server.grpc_url, app="openmoji") as client:
        threads = [
            threading.Thread(target=call, args=(client, number)) for number in range(CALLERS)
        ]
        for thread in threads:
            thread.start()
        try:
            yield seen
        finally:
            stop.set()
            for thread in threads:
                thread.join(30)
    assert not any(thread.is_alive() for thread in threads), "a call hangs"
    assert seen["not retryable"] == 0


def ready(server: Server) -> bool:
    try:
        with urllib.request.urlopen(server.ready_url, timeout=2) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False


def stub_pid(server: Server, component: str) -> int:
    # The last one: those of before a heal end a moment after it.
    for pid in reversed(server.pids[1:]):
        if component in " ".join(psutil.Process(pid).cmdline()):
            return pid
    raise AssertionError(f"no stub of {component}")


@pytest.mark.parametrize("role", STUBS)
def test_a_killed_stub_is_healed_under_load(
    doomed: Server, folds: tuple[Fold, ...], seen_not_ready: Counter[str], role: Role
) -> None:
    component = folds[0].release.loaded[role].model
    image = folds[0].bundle.golden[0].image
    expected = folds[0].bundle.golden[0]
    with load(doomed, image), Client(doomed.grpc_url, app="openmoji") as client:
        for _ in range(max(1, KILLS // len(STUBS))):
            heals = doomed.apps[0].heals
            os.kill(stub_pid(doomed, component), signal.SIGKILL)
            killed = time.monotonic()
            while doomed.apps[0].heals == heals or not ready(doomed):
                seen_not_ready[role] += not ready(doomed)
                assert time.monotonic() - killed < HEALED_WITHIN_S, "it was not healed in time"
                time.sleep(0.02)  # the cores are the healer's
            print(f"{role} healed after {time.monotonic() - killed:.1f} s")
            left = HEALED_WITHIN_S - (time.monotonic() - killed)
            answer = client.classify(text=expected.text, image=image, timeout_s=left)
            assert answer.label == expected.answer


def test_readiness_was_false_in_between(seen_not_ready: Counter[str]) -> None:
    """Over all kills: a look takes as long as a quick heal when the machine is crowded."""
    assert seen_not_ready.total() > 0


def test_refused_inputs_leave_nothing_in_flight(doomed: Server, folds: tuple[Fold, ...]) -> None:
    """Errors while the same request's other modality is being read: a drain would wait for ever
    for what they leave behind."""
    image = folds[0].bundle.golden[0].image
    refused = 0
    with load(doomed, image) as seen, Client(doomed.grpc_url, app="openmoji") as client:
        for number in range(REFUSED):
            with pytest.raises(InvalidInput):
                client.classify(text="x", image=png(seed=number)[:-50], timeout_s=10)
            refused += 1
    assert refused == REFUSED
    assert seen["answered"] > 0
    assert in_flight(doomed) == 0
    assert ready(doomed)


def in_flight(server: Server) -> int:
    with urllib.request.urlopen(server.metrics_url, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        int(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("nv_inference_pending_request_count{")
    )
