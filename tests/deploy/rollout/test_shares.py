"""Canary and shadow shares: in what callers read, on every server, and after a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.deploy.calls import wait_until
from tests.deploy.rollout.conftest import QUICK, Log, answered_by
from tests.deploy.tiny_repository import TinyApp, publish_candidate
from tritonclient.grpc import InferenceServerClient

from tritium_builders.aliases import live_rollout
from tritium_builders.history import read_history
from tritium_client import contract
from tritium_deploy import Server
from tritium_deploy.errors import RolloutError, SwitchError
from tritium_deploy.rollout import Rollout

pytestmark = pytest.mark.e2e


def told(server: Server, entry_point: str = "tiny_classify_text") -> contract.Rollout | None:
    """What callers of a server read."""
    with InferenceServerClient(server.grpc_url) as client:
        config = client.get_model_config(entry_point).config
    return contract.parse_rollout(config.parameters[contract.PARAM_ROLLOUT].string_value)


def test_a_share_grows_shrinks_and_ends(rollout: Rollout, server: Server, repository: Path) -> None:
    rollout.canary("tiny", 2, 5)
    assert told(server) == contract.Rollout(2, canary_percent=5, salt="tiny 2")
    assert live_rollout(repository, "tiny") == told(server)
    assert [one.stage for one in rollout.status("tiny").releases] == ["live", "canary"]
    rollout.shadow("tiny", 2, 20)
    rollout.canary("tiny", 2, 50)
    assert told(server) == contract.Rollout(2, 50, 20, salt="tiny 2")
    assert rollout.status("tiny").consistent
    rollout.canary("tiny", 2, 0)
    rollout.shadow("tiny", 2, 0)
    assert told(server) is None
    assert answered_by(server) == {"1"}
    assert rollout.status("tiny").servers[0].loaded == (1, 2), "callers may still ask it"
    entries = [(one.action, one.percent) for one in read_history(repository, "tiny")]
    assert entries == [
        ("canary", 5), ("shadow", 20), ("canary", 50), ("canary", 0), ("shadow", 0),
    ]  # fmt: skip


def test_one_candidate_at_a_time(rollout: Rollout, repository: Path) -> None:
    publish_candidate(repository, TinyApp(number=3, bias=0.55, labelled=20))
    rollout.canary("tiny", 2, 5)
    with pytest.raises(RolloutError, match="release 2 is the candidate now"):
        rollout.canary("tiny", 3, 5)
    with pytest.raises(RolloutError, match="between 0 and 100"):
        rollout.canary("tiny", 2, 101)
    with pytest.raises(RolloutError, match="release 1 is live already"):
        rollout.canary("tiny", 1, 5)


def test_a_promoted_canary_gets_everything(rollout: Rollout, server: Server) -> None:
    rollout.canary("tiny", 2, 5)
    rollout.promote("tiny", 2)
    assert told(server) is None
    assert answered_by(server) == {"2"}


def test_a_promote_that_was_taken_back_leaves_the_share(
    rollout: Rollout, server: Server, repository: Path
) -> None:
    rollout.canary("tiny", 2, 30)
    share = told(server)
    # Triton finds no version folder of the release there, and refuses to load it.
    (repository / "tiny_classify_image" / "2").rename(repository / "away")
    with pytest.raises(SwitchError, match="stays at release 1"):
        rollout.promote("tiny", 2)
    assert told(server) == share == live_rollout(repository, "tiny")
    assert rollout.status("tiny").consistent


def test_a_restarted_server_has_the_candidate_too(
    repository: Path, start: Callable[..., Server], log: Log
) -> None:
    first = start()
    with Rollout(repository, [first.grpc_url], settings=QUICK, on_step=log) as rollout:
        rollout.canary("tiny", 2, 30)
    first.close()
    second = start()
    assert told(second) == contract.Rollout(2, canary_percent=30, salt="tiny 2")
    with Rollout(repository, [second.grpc_url]) as rollout:
        state = rollout.status("tiny")
        assert (state.servers[0].loaded, state.consistent) == ((1, 2), True)


def test_a_candidate_that_is_gone_does_not_keep_a_server_from_starting(
    repository: Path, start: Callable[..., Server]
) -> None:
    first = start()
    with Rollout(repository, [first.grpc_url], settings=QUICK) as rollout:
        rollout.canary("tiny", 2, 30)
    first.close()
    (repository / "tiny_classify" / "2" / "release.json").unlink()
    events: list[str] = []
    second = start(on_event=lambda event: events.append(event.name))
    assert "candidate_missing" in events
    assert answered_by(second) == {"1"}


def test_a_server_that_was_not_told_of_a_share_follows(
    repository: Path, start: Callable[..., Server]
) -> None:
    told_one, other = start(), start()
    with Rollout(repository, [told_one.grpc_url], settings=QUICK) as rollout:
        rollout.canary("tiny", 2, 30)
    assert told(other) is None
    assert wait_until(lambda: told(other) is not None, 15)
