"""A release that fails its callers loses them again, by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.deploy.calls import ask
from tests.deploy.rollout.conftest import APPLE, QUICK, answered_by
from tests.deploy.tiny_repository import TinyApp, publish_candidate
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from tritium_builders.aliases import live_rollout
from tritium_builders.history import Traffic, read_history
from tritium_deploy import Server
from tritium_deploy.errors import RolloutError
from tritium_deploy.rollout import Rollout, RolloutSettings
from tritium_deploy.rollout.observe import broken_bound, grown, total
from tritium_deploy.rollout.settings import WatchSettings

BOUNDS = RolloutSettings(gates=QUICK.gates, watch=WatchSettings(requests=20))


@contextmanager
def callers(server: Server, model: str) -> Iterator[list[str]]:
    """Somebody asks all the time; yields what went wrong."""
    stop = threading.Event()
    failed: list[str] = []

    def run() -> None:
        with InferenceServerClient(server.grpc_url) as client:
            while not stop.wait(0.005):
                try:
                    ask(client, model, APPLE, 10)
                except InferenceServerException as error:
                    failed.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield failed
    finally:
        stop.set()
        thread.join()


@pytest.mark.e2e
def test_a_release_that_crashes_later_is_rolled_back(
    repository: Path, server: Server, start: Callable[..., Server]
) -> None:
    # Its gates send some thirty requests, so that they cannot see it.
    crashing = {"crash_after": "50"}
    candidate = TinyApp(number=3, bias=0.6, labelled=20, parameters={"fusion_head": crashing})
    publish_candidate(repository, candidate)
    with (
        Rollout(repository, [server.grpc_url], settings=BOUNDS) as rollout,
        callers(server, "tiny_classify") as failed,
    ):
        time.sleep(0.5)
        rollout.promote("tiny", 3)
        verdict = rollout.watch("tiny", 60)
        assert verdict.broken
        assert "of requests failed" in verdict.text
        assert failed
        assert answered_by(server) == {"1"}
        last = read_history(repository, "tiny")[-1]
        assert (last.action, last.release, last.former) == ("rollback", 1, 3)
        assert "of requests failed" in last.reason


@pytest.mark.e2e
def test_a_canary_that_crashes_loses_its_share(repository: Path, server: Server) -> None:
    crashing = {"crash_after": "50"}
    candidate = TinyApp(number=3, bias=0.6, labelled=20, parameters={"fusion_head": crashing})
    publish_candidate(repository, candidate)
    with Rollout(repository, [server.grpc_url], settings=BOUNDS) as rollout:
        rollout.canary("tiny", 3, 50)
        with callers(server, "tiny_classify_r3"), callers(server, "tiny_classify"):
            verdict = rollout.watch("tiny", 60)
        assert verdict.broken
        assert live_rollout(repository, "tiny") is None
        last = read_history(repository, "tiny")[-1]
        assert (last.action, last.percent, last.live) == ("canary", 0, 1)
        assert last.reason


@pytest.mark.e2e
def test_a_good_release_stays(repository: Path, server: Server) -> None:
    with (
        Rollout(repository, [server.grpc_url], settings=BOUNDS) as rollout,
        callers(server, "tiny_classify") as failed,
    ):
        with pytest.raises(RolloutError, match="neither a canary nor a promote to watch"):
            rollout.watch("tiny", 1)
        time.sleep(0.5)
        rollout.promote("tiny", 2)
        before = read_history(repository, "tiny")[-1].before
        assert before is not None
        assert before.requests > 20
        plan = rollout.plan_watch("tiny", 2)
        assert "roll back to release 1" in plan.steps[-1].text
        verdict = rollout.watch("tiny", 2)
        assert not verdict.broken, verdict.text
        assert verdict.found.requests > 20
        assert not failed
        assert answered_by(server) == {"2"}


WATCH = WatchSettings(error_points=1, failures=3, latency_ratio=1.5, requests=50)


@pytest.mark.parametrize(
    ("found", "before", "broken"),
    [
        ((1000, 0, 10), (1000, 0, 10), None),
        ((1000, 2, 10), (1000, 0, 10), None),
        ((97, 3, 10), (1000, 0, 10), "3.0% of requests failed"),
        ((97, 3, 10), (970, 30, 10), None),
        ((0, 5, 0), (0, 0, 0), "100.0% of requests failed"),
        ((1000, 0, 16), (1000, 0, 10), "requests take 16.0 ms"),
        ((1000, 0, 14), (1000, 0, 10), None),
        ((49, 0, 160), (1000, 0, 10), None),
        ((1000, 0, 160), (49, 0, 10), None),
    ],
)
def test_bounds(
    found: tuple[int, int, float], before: tuple[int, int, float], broken: str | None
) -> None:
    def traffic(values: tuple[int, int, float]) -> Traffic:
        return Traffic(requests=values[0], failures=values[1], mean_ms=values[2])

    said = broken_bound(traffic(found), traffic(before), WATCH)
    assert (said is None) == (broken is None)
    assert said is None or said.startswith(broken or "")


counts = st.tuples(st.integers(0, 10_000), st.integers(0, 100), st.floats(0.1, 1000))


@given(counts, counts)
def test_what_came_between_two_readings(
    first: tuple[int, int, float], more: tuple[int, int, float]
) -> None:
    before = Traffic(requests=first[0], failures=first[1], mean_ms=first[2] if first[0] else 0)
    added = Traffic(requests=more[0], failures=more[1], mean_ms=more[2] if more[0] else 0)
    found = grown(before, total([before, added]))
    assert (found.requests, found.failures) == (added.requests, added.failures)
    assert found.mean_ms == pytest.approx(added.mean_ms, abs=0.01, rel=1e-3) or not more[0]


def test_a_model_that_was_loaded_anew_is_counted_from_zero() -> None:
    before = Traffic(requests=100, failures=5, mean_ms=10)
    after = Traffic(requests=7, failures=0, mean_ms=20)
    assert grown(before, after) == after
