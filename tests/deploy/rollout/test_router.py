"""The split on the server, for callers without the SDK."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.deploy import tiny_servable
from tests.deploy.calls import wait_until
from tests.deploy.rollout.conftest import QUICK
from tests.deploy.tiny_repository import LABELS, TinyApp, publish_candidate
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from tritium_builders.servables import router
from tritium_client import contract
from tritium_deploy import Server
from tritium_deploy.rollout import Rollout
from tritium_deploy.stubs import list_stubs

BIAS = {1: 0.5, 2: 0.6}


@given(st.text(), st.text())
def test_its_bucket_is_that_of_the_wire_contract(salt: str, key: str) -> None:
    assert router.bucket(salt, key) == contract.rollout_bucket(salt, key)


def test_its_words_are_those_of_the_wire_contract() -> None:
    ours = (router.PROBABILITIES, router.RELEASE, router.LABEL, router.ROUTE_KEY)
    theirs = (contract.PROBABILITIES, contract.RELEASE, contract.LABEL, contract.ROUTE_KEY)
    assert ours == theirs
    assert router.MODALITIES == contract.MODALITIES


def ask(
    client: InferenceServerClient, key: str | None = None, /, **given: bytes
) -> tuple[int, str, Any]:
    """Release, label and probabilities."""
    inputs = []
    if key:
        given["route_key"] = key.encode()
    for name, value in given.items():
        tensor = InferInput(name, [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[value]], dtype=np.object_))
        inputs.append(tensor)
    found = client.infer("tiny_route", inputs, client_timeout=30)
    release = int(found.as_numpy("release")[0, 0])
    return release, found.as_numpy("label")[0, 0].decode(), found.as_numpy("probabilities")[0]


@pytest.mark.e2e
def test_keys_meet_the_release_that_the_sdk_would_ask(
    repository: Path, start: Callable[..., Server]
) -> None:
    server = start(router=True)
    with (
        Rollout(repository, [server.grpc_url], settings=QUICK) as rollout,
        InferenceServerClient(server.grpc_url) as client,
    ):
        text = b"red apple"
        release, label, scores = ask(client, text=text)
        expected = tiny_servable.probabilities(
            tiny_servable.text_features(text), None, BIAS[release]
        )
        assert release == 1
        np.testing.assert_allclose(scores, expected, atol=1e-6)
        assert label == LABELS[int(expected.argmax())]
        rollout.canary("tiny", 2, 40)
        split = contract.Rollout(2, canary_percent=40, salt="tiny 2")
        keys = [f"user {number}" for number in range(100)]
        wanted = {key: 2 if split.takes(key) else 1 for key in keys}
        some = next(key for key in keys if wanted[key] == 2)
        assert wait_until(lambda: ask(client, some, text=text)[0] == 2, 5)
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(lambda key: ask(client, key, text=text, image=b"picture")[0], keys)
            assert dict(zip(keys, found, strict=True)) == wanted
        rollout.promote("tiny", 2)
        assert wait_until(lambda: ask(client, "user 1", image=b"picture")[0] == 2, 5)
        rollout.rollback("tiny")
        assert wait_until(lambda: {ask(client, key, text=text)[0] for key in keys} == {1}, 5)


@pytest.mark.e2e
def test_what_it_cannot_answer_is_refused_and_nobody_else_suffers(
    repository: Path, start: Callable[..., Server]
) -> None:
    server = start(router=True)
    with InferenceServerClient(server.grpc_url) as client:
        with pytest.raises(InferenceServerException, match="no entry point takes nothing") as none:
            ask(client, "user 1")
        assert str(none.value.status()) == "StatusCode.INVALID_ARGUMENT"
        assert contract.parse_error(none.value.message()) is not None
        assert ask(client, text=b"red apple")[0] == 1


@pytest.mark.e2e
def test_a_candidate_that_fails_is_answered_for(
    repository: Path, start: Callable[..., Server]
) -> None:
    crashing = {"crash_after": "40"}
    candidate = TinyApp(number=3, bias=0.6, labelled=20, parameters={"fusion_head": crashing})
    publish_candidate(repository, candidate)
    server = start(router=True)
    with (
        Rollout(repository, [server.grpc_url], settings=QUICK) as rollout,
        InferenceServerClient(server.grpc_url) as client,
    ):
        rollout.canary("tiny", 3, 100)
        given = {"text": b"red apple", "image": b"picture"}
        assert wait_until(lambda: ask(client, **given)[0] == 3, 5)
        releases = [ask(client, **given)[0] for _ in range(40)]
        assert set(releases) == {1, 3}, "when it died, the live release answered"


@pytest.mark.e2e
def test_a_dead_router_is_healed(repository: Path, start: Callable[..., Server]) -> None:
    server = start(router=True)
    with InferenceServerClient(server.grpc_url) as client:
        for stub in list_stubs(server.pid):
            if stub.model == "tiny_route":
                os.kill(stub.pid, signal.SIGKILL)

        def answers() -> bool:
            try:
                return ask(client, text=b"red apple")[0] == 1
            except InferenceServerException:
                time.sleep(0.1)
                return False

        assert wait_until(answers, 15)
    assert server.ready
