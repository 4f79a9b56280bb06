"""Releases are switched, back and forth, while callers ask all the time: nobody loses an answer.

`make test-full` switches fifty times and compares latencies, too.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from tests.deploy import tiny_servable
from tests.deploy.calls import executions_at_rest
from tests.deploy.rollout.conftest import CANDIDATE, LIVE, QUICK
from tritonclient.grpc import InferenceServerClient

from tritium_benchmarks.errors import PerfAnalyzerError
from tritium_benchmarks.inputs import Request
from tritium_benchmarks.perf_analyzer.input_data import write_input_data
from tritium_benchmarks.perf_analyzer.install import install_perf_analyzer
from tritium_benchmarks.perf_analyzer.measure import measure
from tritium_client import Classification, Client, RetryPolicy, TritiumClientError
from tritium_deploy import Ports, Server, serve
from tritium_deploy.rollout import Rollout
from tritium_deploy.rollout.plan import StepEvent
from tritium_deploy.server import ServeOptions
from tritium_deploy.watch import WatchOptions

pytestmark = pytest.mark.e2e

FULL = bool(os.environ.get("TRITIUM_TEST_FULL"))
SWITCHES = 50 if FULL else 8
CALLERS = 5
PER_SECOND = 50
KINDS = {("text", "image"): "", ("text",): "_text", ("image",): "_image"}
"""What callers give -> how the name of what answers that ends."""
VERSION_CHANGED = "failed to find the requested model version"
BIAS = {1: LIVE.bias, 2: CANDIDATE.bias}
GATE_REQUESTS = 20 + 3
"""Of a promote, to each of both: its samples, and those that warm up."""


@dataclass
class Asked:
    """What callers met."""

    answered: Counter[tuple[tuple[str, ...], int]] = field(default_factory=Counter)
    """(modalities, release) -> answers."""
    failed: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    """Answers that are not those of the release that they name."""
    spans: list[tuple[float, float]] = field(default_factory=list)
    """When each was sent and answered."""
    lock: threading.Lock = field(default_factory=threading.Lock)


def wrong(answer: Classification, text: str | None, image: bytes | None) -> bool:
    """Whether an answer is another release's than it says."""
    expected = tiny_servable.probabilities(
        None if text is None else tiny_servable.text_features(text.encode()),
        None if image is None else tiny_servable.image_features(image),
        BIAS[answer.release],
    )
    return not np.allclose(answer.probabilities, expected, atol=1e-6)


@contextmanager
def callers(url: str) -> Iterator[Asked]:
    """Ask `PER_SECOND` times a second, each kind in turn, with retries and hedging off."""
    asked, stop, numbers = Asked(), threading.Event(), itertools.count()

    def run(client: Client, first: float) -> None:
        due = time.monotonic() + first
        while not stop.wait(max(0.0, due - time.monotonic())):
            due += CALLERS / PER_SECOND
            number = next(numbers)
            kind = list(KINDS)[number % len(KINDS)]
            text = f"caller {number}" if "text" in kind else None
            image = b"pixels" * (number % 9 + 1) if "image" in kind else None
            sent = time.monotonic()
            try:
                answer = client.classify(text=text, image=image, timeout_s=10)
            except TritiumClientError as error:
                asked.failed.append(f"{kind}: {type(error).__name__}: {error}")
                continue
            with asked.lock:
                asked.spans.append((sent, time.monotonic()))
                asked.answered[kind, answer.release] += 1
                if wrong(answer, text, image):
                    asked.mixed.append(f"{kind} release {answer.release}: {answer}")

    with Client(url, app="tiny", retries=RetryPolicy(attempts=1)) as client:
        threads = [
            threading.Thread(target=run, args=(client, index / PER_SECOND))
            for index in range(CALLERS)
        ]
        for thread in threads:
            thread.start()
        try:
            yield asked
        finally:
            stop.set()
            for thread in threads:
                thread.join()


@contextmanager
def perf_analyzer(url: str, folder: Path) -> Iterator[None]:
    """NVIDIA's load generator beside them; it ends with an error when one request fails.

    It also ends when the statistics that it reads at last are another version's than at first, as
    they are after a switch: then it begins again.
    """
    program = install_perf_analyzer(folder / "perf_analyzer")
    data = write_input_data([Request(None, b"pixels")], folder / "data.json")
    errors: list[PerfAnalyzerError] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            try:
                measure("tiny_classify_image", url, data, in_flight=1, seconds=3, program=program)
            except PerfAnalyzerError as error:
                if not str(error).endswith(VERSION_CHANGED):
                    errors.append(error)
                    return

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]


def graph_answers(server: Server, suffix: str) -> int:
    """What both releases' own ensembles have answered for one kind of requests; none failed."""
    with InferenceServerClient(server.grpc_url) as client:
        graphs = [f"tiny_classify{suffix}_r{number}" for number in (1, 2)]
        loaded = [graph for graph in graphs if client.is_model_ready(graph)]
        for graph in loaded:
            statistics = client.get_inference_statistics(graph).model_stats[0].inference_stats
            assert statistics.fail.count == 0
        return sum(executions_at_rest(client, graph) for graph in loaded)


def test_nobody_loses_an_answer(repository: Path, tmp_path: Path) -> None:
    windows: list[tuple[float, float]] = []
    began = 0.0

    def note(event: StepEvent) -> None:
        nonlocal began
        if event.kind == "begin" and event.text.startswith("note that the entry points move"):
            began = time.monotonic()
        if event.kind == "end" and event.text.startswith("tell servers that came back"):
            windows.append((began, time.monotonic()))

    # Golden samples that the server asks itself would have to be told apart below.
    options = ServeOptions(watch=WatchOptions(probe_every_s=3600))
    with (
        serve(repository, ports=Ports.free(), options=options) as server,
        Rollout(repository, [server.grpc_url], settings=QUICK, on_step=note) as rollout,
    ):
        before = {kind: graph_answers(server, suffix) for kind, suffix in KINDS.items()}
        with perf_analyzer(server.grpc_url, tmp_path), callers(server.grpc_url) as asked:
            time.sleep(1)
            for number in range(SWITCHES):
                if number % 2 == 0:
                    rollout.promote("tiny", 2)
                else:
                    rollout.rollback("tiny")
                time.sleep(0.2)
        assert asked.failed == []
        assert asked.mixed == []
        assert len(windows) == SWITCHES
        reconcile(server, asked, before)
        compare_latencies(asked, windows)


def reconcile(server: Server, asked: Asked, before: dict[tuple[str, ...], int]) -> None:
    """Every answer that a caller has was computed, and nothing else was."""
    promotes = (SWITCHES + 1) // 2
    golden = promotes * 4  # staging replays each sample once for each kind
    more = {
        kind: graph_answers(server, suffix) - before[kind] - golden
        for kind, suffix in KINDS.items()
    }
    more["text", "image"] -= promotes * 2 * GATE_REQUESTS
    answered = {
        kind: sum(count for (other, _), count in asked.answered.items() if other == kind)
        for kind in KINDS
    }
    of_perf_analyzer = more["image",] - answered["image",]
    assert of_perf_analyzer > SWITCHES
    assert more == answered | {("image",): answered["image",] + of_perf_analyzer}
    for kind in KINDS:
        for release in (1, 2):
            assert asked.answered[kind, release] > 0


def compare_latencies(asked: Asked, windows: list[tuple[float, float]]) -> None:
    during: list[float] = []
    outside: list[float] = []
    for sent, done in asked.spans:
        amid = any(sent < end and done > begin for begin, end in windows)
        (during if amid else outside).append((done - sent) * 1e3)
    switch_ms = np.median([(end - begin) * 1e3 for begin, end in windows])
    p99 = [float(np.percentile(one, 99)) for one in (during, outside)]
    print(
        f"{len(windows)} switches, {switch_ms:.0f} ms each; {len(asked.spans)} answers, 0 failed; "
        f"p99 {p99[0]:.1f} ms amid a switch ({len(during)} answers), {p99[1]:.1f} ms outside"
    )
    if FULL:
        assert p99[0] <= 2 * p99[1]
