"""The demo app with a retrained head, rolled out and back on the server that all tests share."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import Fold
from tritium_builders.training.folds import Prepared
from tritium_client import Client
from tritium_deploy import Server
from tritium_deploy.rollout import Rollout, RolloutSettings, retire
from tritium_deploy.rollout.settings import GateSettings
from tritium_deploy.stubs import list_stubs

pytestmark = pytest.mark.e2e

HASTY = GateSettings(accuracy_margin=100, latency_ratio=20, latency_pairs=20, samples=20)
"""The second release's head is trained for a few epochs only."""
STAGED_WITHIN_S = 2.0 if os.environ.get("TRITIUM_TEST_FULL") else 20.0
"""Two seconds with the machine to itself; other tests may have the other core."""


def encoder_pids(server: Server) -> set[int]:
    return {stub.pid for stub in list_stubs(server.pid) if "_encoders_" in stub.model}


def test_a_new_head_goes_live_and_back_while_the_encoders_go_on(
    server: Server,
    folds: Sequence[Fold],
    prepared: Prepared,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert folds[1].release.number == 2
    before = encoder_pids(server)
    assert before
    settings = RolloutSettings(gates=HASTY)
    with (
        Rollout(repository, [server.grpc_url], settings=settings) as rollout,
        Client(server.grpc_url, app="openmoji") as client,
    ):
        began = time.monotonic()
        rollout.stage("openmoji", 2)
        took = time.monotonic() - began
        print(f"staged in {took:.2f} s")
        assert took < STAGED_WITHIN_S
        assert encoder_pids(server) == before
        rollout.promote("openmoji", 2)
        for index, expected in list(zip(folds[1].held_out, folds[1].probabilities, strict=True))[
            :10
        ]:
            sample = prepared.dataset.items[index].sample(labelled=True)
            answer = client.classify(text=sample.text, image=sample.image, timeout_s=30)
            assert answer.release == 2
            np.testing.assert_allclose(answer.probabilities, expected, atol=1e-4)
        rollout.rollback("openmoji")
        assert client.classify(text="red apple", timeout_s=30).release == 1
        monkeypatch.setattr(retire, "QUIET_S", 1.0)
        rollout.retire("openmoji", 2)
        assert encoder_pids(server) == before
        assert rollout.status("openmoji").consistent
