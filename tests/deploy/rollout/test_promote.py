"""Stage, promote and roll back on one real server; what an interrupted command leaves."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.deploy.calls import executions, get, wait_until
from tests.deploy.rollout.conftest import CANDIDATE, DOOMED, LIVE, QUICK, Log, answered_by
from tests.deploy.tiny_repository import TinyApp, publish, publish_candidate
from tritonclient.grpc import InferenceServerClient

from tritium_builders.history import read_history
from tritium_builders.pending import read_pending
from tritium_builders.release import live_release
from tritium_deploy import Ports, Server, serve
from tritium_deploy.errors import RolloutError, SwitchError
from tritium_deploy.rollout import Rollout, retire
from tritium_deploy.rollout.plan import StepEvent
from tritium_deploy.stubs import list_stubs

pytestmark = pytest.mark.e2e


def encoder_pids(server: Server) -> dict[str, int]:
    return {stub.model: stub.pid for stub in list_stubs(server.pid) if "_encoder_" in stub.model}


def test_a_staged_release_is_loaded_and_gets_no_traffic(
    rollout: Rollout, server: Server, repository: Path, log: Log
) -> None:
    before = encoder_pids(server)
    rollout.stage("tiny", 2)
    state = rollout.status("tiny")
    assert state.servers[0].loaded == (1, 2)
    assert (state.live, state.consistent) == (1, True)
    assert [one.stage for one in state.releases] == ["live", "candidate"]
    assert answered_by(server) == {"1"}
    assert encoder_pids(server) == before, "both releases use them, and they went on as they were"
    assert len(before) == 2
    assert "loaded tiny_text_encoder" not in log.text
    rollout.stage("tiny", 2)
    actions = [entry.action for entry in read_history(repository, "tiny")]
    assert actions == ["stage"], "the second time there was nothing to do"


def test_a_promoted_release_answers_and_the_former_one_comes_back(
    rollout: Rollout, server: Server, repository: Path
) -> None:
    rollout.promote("tiny", 2)
    assert answered_by(server) == {"2"}
    assert live_release(repository, "tiny") == 2
    assert read_pending(repository, "tiny") is None
    assert wait_until(lambda: server.apps[0].release == 2, 5), "the server itself knows"
    assert get(server.ready_url)[0] == 200
    rollout.promote("tiny", 2)
    pids = {stub.pid for stub in list_stubs(server.pid)}
    rollout.rollback("tiny")
    assert answered_by(server) == {"1"}
    assert {stub.pid for stub in list_stubs(server.pid)} == pids, "nothing was loaded for it"
    rollout.rollback("tiny")
    assert answered_by(server) == {"1"}, "given twice, it does not swing back"
    entries = read_history(repository, "tiny")
    assert [(one.action, one.release, one.former) for one in entries] == [
        ("promote", 2, 1),
        ("rollback", 1, 2),
    ]
    assert {gate.gate for gate in entries[0].gates} == {"golden", "errors", "accuracy", "latency"}
    assert entries[0].who.count("@") == 1


def test_golden_samples_and_healing_follow_the_release_that_is_live(
    rollout: Rollout, server: Server
) -> None:
    rollout.promote("tiny", 2)
    assert wait_until(lambda: server.apps[0].release == 2, 5)
    (head,) = (one for one in list_stubs(server.pid) if one.model in _heads(rollout, 2))
    os.kill(head.pid, signal.SIGKILL)
    assert wait_until(lambda: server.apps[0].heals == 1, 15)
    assert answered_by(server) == {"2"}


def _heads(rollout: Rollout, number: int) -> set[str]:
    from tritium_builders.release import load_release, release_folder

    release = load_release(release_folder(rollout.repository, "tiny", number))
    return {release.components["fusion_head"].model}


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rollout, Server]]:
    """For tests that change nothing."""
    folder = tmp_path_factory.mktemp("repository")
    publish(folder, LIVE)
    publish_candidate(folder, CANDIDATE)
    with (
        serve(folder, ports=Ports.free()) as server,
        Rollout(folder, [server.grpc_url], settings=QUICK) as rollout,
    ):
        yield rollout, server


def test_a_plan_changes_nothing(standing: tuple[Rollout, Server]) -> None:
    rollout, server = standing
    repository = rollout.repository
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*") if path.is_file()}
    plan = rollout.promote("tiny", 2, dry_run=True)
    words = " ".join(step.text for step in plan.steps)
    assert "load tiny_fusion_head" in words
    assert "_encoder_" not in words, "they are loaded already"
    assert any("MB more" in note for note in plan.notes)
    assert rollout.status("tiny").servers[0].loaded == (1,)
    after = {path: path.stat().st_mtime_ns for path in repository.rglob("*") if path.is_file()}
    assert before == after
    assert answered_by(server) == {"1"}


def test_there_is_nothing_to_go_back_to_before_a_promote(
    standing: tuple[Rollout, Server],
) -> None:
    rollout, _ = standing
    with pytest.raises(RolloutError, match="nothing to go back to"):
        rollout.rollback("tiny")


def test_what_is_not_there_is_named(standing: tuple[Rollout, Server]) -> None:
    rollout, _ = standing
    for app, number, problem in (
        ("other", 2, "no app other"),
        ("tiny", 9, "release 9 cannot be staged"),
        ("../tiny", 2, "cannot be an app's name"),
    ):
        with pytest.raises(RolloutError, match=problem):
            rollout.promote(app, number)


def promote(rollout: Rollout) -> None:
    rollout.promote("tiny", 2)


def canary(rollout: Rollout) -> None:
    rollout.canary("tiny", 2, 50)


def roll_back(rollout: Rollout) -> None:
    rollout.rollback("tiny", to=1)


def delete(rollout: Rollout) -> None:
    retire.QUIET_S = 0.0
    rollout.retire("tiny", 2, delete=True)


Verb = Callable[[Rollout], None]


def act_and_die(verb: Verb, repository: Path, endpoint: str, after: int) -> None:
    """Do it, and be killed when so many steps have begun (in a process of its own)."""
    begun = 0

    def count(event: StepEvent) -> None:
        nonlocal begun
        begun += event.kind == "begin"
        if begun > after:
            os.kill(os.getpid(), signal.SIGKILL)

    with Rollout(repository, [endpoint], settings=QUICK, on_step=count) as rollout:
        verb(rollout)


def killed_after(verb: Verb, repository: Path, endpoint: str, after: int) -> bool:
    """Whether it was killed: false when it had no more steps than that."""
    process = DOOMED.Process(target=act_and_die, args=(verb, repository, endpoint, after))
    process.start()
    process.join(60)
    assert process.exitcode in (-signal.SIGKILL, 0)
    return process.exitcode != 0


@pytest.mark.parametrize(
    ("verb", "steps", "done_from"),
    [(promote, 8, 7), (roll_back, 4, 3), (canary, 6, None), (delete, 3, None)],
    ids=["promote", "rollback", "canary", "delete"],
)
def test_a_kill_at_any_step_is_completed_or_undone(
    rollout: Rollout,
    server: Server,
    repository: Path,
    verb: Verb,
    steps: int,
    done_from: int | None,
) -> None:
    """`done_from`: from this step on the repository says that the other release is live."""
    if verb is roll_back:
        rollout.promote("tiny", 2)
    before = str(live_release(repository, "tiny"))
    after = {"1": "2", "2": "1"}[before]
    step = 0
    while killed_after(verb, repository, server.grpc_url, step):
        done = done_from is not None and step >= done_from
        state = rollout.status("tiny")
        assert str(state.live) == (after if done else before)
        assert answered_by(server) <= {"1", "2"}
        assert state.owner is None, "its lock ended with it"
        if verb in (promote, roll_back):  # any command ends what it left
            rollout.shadow("tiny", 3 - int(before if not done else after), 0)
            assert answered_by(server) == {after if done else before}
            assert rollout.status("tiny").consistent
        if done:
            rollout.rollback("tiny", to=int(before))
        step += 1
    assert step == steps, "it was killed at each of them"
    assert rollout.status("tiny").consistent
    assert answered_by(server) == {before if done_from is None else after}


def test_an_unfinished_switch_is_shown_and_said(
    rollout: Rollout, server: Server, repository: Path, log: Log
) -> None:
    process = DOOMED.Process(target=act_and_die, args=(promote, repository, server.grpc_url, 6))
    process.start()
    process.join(60)
    state = rollout.status("tiny")
    assert state.pending is not None
    assert (state.pending.former, state.pending.release) == (1, 2)
    assert not state.consistent
    assert answered_by(server) == {"2"}, "that far it had come"
    rollout.stage("tiny", 2)
    assert "undid the promote of release 2" in log.text
    assert answered_by(server) == {"1"}
    assert read_history(repository, "tiny")[-1].action == "undo"


def test_an_unfinished_switch_is_undone_whatever_became_of_the_release(
    rollout: Rollout, server: Server, repository: Path
) -> None:
    assert killed_after(promote, repository, server.grpc_url, 6)
    (repository / "tiny_classify" / "2" / "release.json").unlink()
    rollout.rollback("tiny", to=1)
    assert answered_by(server) == {"1"}
    assert rollout.status("tiny").consistent


def test_a_live_release_whose_files_are_gone_can_be_left(
    rollout: Rollout, server: Server, repository: Path
) -> None:
    rollout.promote("tiny", 2)
    for name in _heads(rollout, 2):
        (repository / name / "1" / "model.py").unlink()
    rollout.rollback("tiny")
    assert answered_by(server) == {"1"}


def test_a_switch_that_one_entry_point_refuses_is_taken_back(
    rollout: Rollout, server: Server, repository: Path
) -> None:
    rollout.stage("tiny", 2)
    # Triton finds no version folder of the release there, and refuses to load it.
    (repository / "tiny_classify" / "2").rename(repository / "tiny_classify" / "away")
    with pytest.raises(RolloutError):
        rollout.promote("tiny", 2)
    (repository / "tiny_classify" / "away").rename(repository / "tiny_classify" / "2")
    (repository / "tiny_classify_text" / "2").rename(repository / "tiny_classify_text" / "away")
    with pytest.raises(SwitchError, match="stays at release 1"):
        rollout.promote("tiny", 2)
    assert answered_by(server) == {"1"}
    state = rollout.status("tiny")
    assert (state.live, state.consistent) == (1, True)
    (repository / "tiny_classify_text" / "away").rename(repository / "tiny_classify_text" / "2")
    rollout.promote("tiny", 2)
    assert answered_by(server) == {"2"}


def test_a_release_with_other_encoders_is_loaded_and_unloaded_whole(
    rollout: Rollout, server: Server, repository: Path
) -> None:
    other = TinyApp(number=3, bias=0.5, labelled=20, parameters={"text_encoder": {"other": "1"}})
    publish_candidate(repository, other)
    rollout.promote("tiny", 3)
    assert answered_by(server) == {"3"}
    assert len(encoder_pids(server)) == 3
    with InferenceServerClient(server.grpc_url) as client:
        assert executions(client, "tiny_classify_r3") > 0
