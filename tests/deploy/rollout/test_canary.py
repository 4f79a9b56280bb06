"""A canary's share as callers get it: counted by the server, and each key on one side.

`make test-full` sends twenty thousand requests at each share.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable

import pytest
from tests.deploy.calls import executions_at_rest
from tritonclient.grpc import InferenceServerClient

from tritium_client import Client, RetryPolicy
from tritium_deploy import Server
from tritium_deploy.rollout import Rollout

pytestmark = pytest.mark.e2e

REQUESTS = 20_000 if os.environ.get("TRITIUM_TEST_FULL") else 1_000
KEYS = [f"user {number}" for number in range(300)]


def candidate_answers(server: Server) -> int:
    """What the candidate has computed, as Triton counts it."""
    with InferenceServerClient(server.grpc_url) as client:
        return executions_at_rest(client, "tiny_classify_text_r2")


def ask_each(server: Server, keys: Iterable[str]) -> dict[str, int]:
    """Key -> the release that answered it; a client of its own reads the shares at once."""
    rows = [{"text": f"about {key}", "route_key": key} for key in keys]
    with Client(server.grpc_url, app="tiny", retries=RetryPolicy(attempts=1)) as client:
        results = client.classify_many(rows, concurrency=8, timeout_s=10)
        return {
            str(row["route_key"]): one.unwrap().release
            for row, one in zip(rows, results, strict=True)
        }


def taken(releases: dict[str, int]) -> set[str]:
    return {key for key, release in releases.items() if release == 2}


@pytest.mark.parametrize("percent", [5, 50])
def test_the_candidate_gets_its_share(server: Server, rollout: Rollout, percent: float) -> None:
    rollout.canary("tiny", 2, percent)
    before = candidate_answers(server)
    answered = ask_each(server, (f"caller {number}" for number in range(REQUESTS)))
    counted = candidate_answers(server) - before
    assert counted == len(taken(answered)), "results say which release answered"
    share = percent / 100
    error = math.sqrt(REQUESTS * share * (1 - share))
    assert abs(counted - REQUESTS * share) < 4 * error


def test_only_the_keys_that_must_move_move(server: Server, rollout: Rollout) -> None:
    assert taken(ask_each(server, KEYS)) == set()
    rollout.canary("tiny", 2, 5)
    few = taken(ask_each(server, KEYS))
    assert 0 < len(few) < 60
    assert taken(ask_each(server, reversed(KEYS))) == few, "sticky, for every client"
    rollout.canary("tiny", 2, 50)
    half = taken(ask_each(server, KEYS))
    assert few < half
    assert 90 < len(half) < 210
    rollout.canary("tiny", 2, 100)
    assert taken(ask_each(server, KEYS)) == set(KEYS)
    rollout.canary("tiny", 2, 50)
    assert taken(ask_each(server, KEYS)) == half, "and back"
    rollout.canary("tiny", 2, 0)
    assert taken(ask_each(server, KEYS)) == set()


def test_a_client_that_knew_the_candidate_goes_on_after_it_is_unloaded(
    server: Server, rollout: Rollout
) -> None:
    rollout.canary("tiny", 2, 100)
    with Client(server.grpc_url, app="tiny", retries=RetryPolicy(attempts=1)) as client:
        assert client.classify(text="red apple", timeout_s=10).release == 2
        with InferenceServerClient(server.grpc_url) as control:
            control.unload_model(
                "tiny_classify_text_r2", headers=server.access.admin_headers(server.grpc_url)
            )
        answer = client.classify(text="red apple", timeout_s=10)
    assert answer.release == 1, "the live release answers for one that is gone"


def test_callers_are_told_how_a_shadow_compares(server: Server, rollout: Rollout) -> None:
    rollout.shadow("tiny", 2, 100)
    with Client(server.grpc_url, app="tiny") as client:
        for number in range(20):
            assert client.classify(text=f"text {number}", timeout_s=10).release == 1
        report = client.shadow_report()
    assert (report.candidate, report.live) == (2, 1)
    assert report.requests + report.dropped <= 20
    assert report.failed == 0
