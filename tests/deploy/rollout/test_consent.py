"""Candidates that go on only when somebody says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.deploy.rollout.conftest import QUICK, Log, answered_by
from tests.deploy.tiny_repository import TinyApp, publish_candidate

from tritium_deploy import Server
from tritium_deploy.errors import GateError
from tritium_deploy.rollout import Rollout

pytestmark = pytest.mark.e2e


def test_an_app_without_labels_is_gated_on_agreement(
    repository: Path, server: Server, log: Log
) -> None:
    publish_candidate(repository, TinyApp(number=3, bias=0.55))
    publish_candidate(repository, TinyApp(number=4, bias=4.0))
    with Rollout(repository, [server.grpc_url], settings=QUICK, on_step=log) as rollout:
        with pytest.raises(GateError, match=r"no labels to know who is right: .*--accept"):
            rollout.canary("tiny", 3, 5)
        with pytest.raises(GateError, match="answers equal live's, at least 95% must"):
            rollout.canary("tiny", 4, 5, accept=True)
        rollout.canary("tiny", 3, 5, accept=True)
        assert "100.0% of 4 answers equal live's" in log.text


def test_another_space_wants_somebody_to_say_so(
    rollout: Rollout, server: Server, repository: Path, log: Log
) -> None:
    publish_candidate(repository, TinyApp(number=3, bias=0.6, labelled=20, space="b"))
    with pytest.raises(GateError, match=r"its space is b and live's is none: .*--new-space"):
        rollout.promote("tiny", 3)
    rollout.promote("tiny", 3, new_space=True)
    assert answered_by(server) == {"3"}
    publish_candidate(repository, TinyApp(number=4, bias=0.6, labelled=20, space="b"))
    rollout.promote("tiny", 4)
    assert answered_by(server) == {"4"}
