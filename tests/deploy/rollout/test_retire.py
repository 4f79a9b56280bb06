"""Releases that nothing refers to are unloaded, and removed when that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.deploy.calls import wait_until
from tests.deploy.rollout.conftest import answered_by
from tests.deploy.tiny_repository import TinyApp, publish_candidate

from tritium_builders.history import read_history
from tritium_builders.release import list_releases
from tritium_deploy import Server
from tritium_deploy.errors import RolloutError
from tritium_deploy.rollout import Rollout, retire
from tritium_deploy.stubs import list_stubs

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def callers_learn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers have three refreshes to learn that a release gets no requests; here, a second."""
    monkeypatch.setattr(retire, "QUIET_S", 1.0)


def test_what_is_needed_is_kept(rollout: Rollout, repository: Path) -> None:
    publish_candidate(repository, TinyApp(number=3, bias=0.55, labelled=20))
    rollout.promote("tiny", 2)
    rollout.canary("tiny", 3, 5)
    for number, why in ((2, "live"), (1, "roll back to"), (3, "gets requests")):
        with pytest.raises(RolloutError, match=f"release {number} is .*{why}.*; it stays"):
            rollout.retire("tiny", number)


def test_a_retired_release_is_unloaded_with_what_only_it_used(
    rollout: Rollout, server: Server, repository: Path
) -> None:
    rollout.promote("tiny", 2)
    rollout.rollback("tiny")
    assert len(list_stubs(server.pid)) == 2 + 3 + 3
    rollout.retire("tiny", 2)
    assert wait_until(lambda: len(list_stubs(server.pid)) == 5, 5), "encoders serve the other one"
    assert rollout.status("tiny").servers[0].loaded == (1,)
    assert [one.stage for one in rollout.status("tiny").releases] == ["live", "retired"]
    assert answered_by(server) == {"1"}
    rollout.promote("tiny", 2)
    assert answered_by(server) == {"2"}, "its files are there"


def test_a_deleted_release_takes_what_no_other_one_has(
    rollout: Rollout, server: Server, repository: Path
) -> None:
    before = {path.name for path in repository.iterdir()}
    rollout.retire("tiny", 2, delete=True)
    gone = before - {path.name for path in repository.iterdir()}
    assert len(gone) == 3 + 3, "its graphs and its heads"
    assert not any("_encoder_" in name for name in gone)
    assert list_releases(repository, "tiny") == [1]
    assert not list((repository / ".tritium").glob("trash*"))
    assert answered_by(server) == {"1"}
    assert read_history(repository, "tiny")[-1].action == "delete"
    with pytest.raises(RolloutError, match="has no release 2"):
        rollout.retire("tiny", 2, delete=True)


def test_gc_keeps_the_newest_and_what_is_referred_to(
    rollout: Rollout, server: Server, repository: Path
) -> None:
    for number in (3, 4, 5, 6):
        publish_candidate(repository, TinyApp(number=number, bias=0.5 + number / 100, labelled=20))
    rollout.promote("tiny", 2)
    plan = rollout.gc("tiny", keep=2, dry_run=True)
    assert list_releases(repository, "tiny") == [1, 2, 3, 4, 5, 6]
    assert any("remove release 3" in step.text for step in plan.steps)
    rollout.gc("tiny", keep=2)
    assert list_releases(repository, "tiny") == [1, 2, 5, 6]
    assert answered_by(server) == {"2"}
    with pytest.raises(ValueError, match="at least 1"):
        rollout.gc("tiny", keep=0)
