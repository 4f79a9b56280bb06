"""Two operators at once take turns; one whose machine is gone is followed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from tests.deploy.rollout.conftest import DOOMED

from tritium_builders.names import STATE_FOLDER
from tritium_deploy.errors import LockedError
from tritium_deploy.rollout import lock as locking
from tritium_deploy.rollout.lock import AppLock, Owner, is_locked, lock_path, read_owner


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / STATE_FOLDER).mkdir()
    return tmp_path


def write_owner(repository: Path, **changes: object) -> None:
    owner = {
        "who": "ann@elsewhere", "host": "elsewhere", "pid": 1, "doing": "promote tiny 2",
        "token": "other", "expires": time.time() + 20, **changes,
    }  # fmt: skip
    lock_path(repository, "tiny").write_text(Owner.model_validate(owner).model_dump_json())


def test_a_lock_says_who_holds_it_and_ends_with_its_block(repository: Path) -> None:
    with AppLock(repository, "tiny", "stage tiny 2"):
        owner = read_owner(repository, "tiny")
        assert owner is not None
        assert (owner.pid, owner.doing) == (os.getpid(), "stage tiny 2")
        assert not is_locked(repository, "other"), "every app has its own"
    assert not is_locked(repository, "tiny")


def test_a_second_operator_is_told_who_is_at_work(repository: Path) -> None:
    write_owner(repository)
    with (
        pytest.raises(LockedError, match=r"ann@elsewhere .* promote tiny 2; wait for it \(--wait"),
        AppLock(repository, "tiny", "rollback tiny"),
    ):
        pass
    owner = read_owner(repository, "tiny")
    assert owner is not None
    assert owner.who == "ann@elsewhere", "it still has its lock"


def test_a_second_operator_may_wait(repository: Path) -> None:
    write_owner(repository, expires=time.time() + 0.5)
    waited_for: list[str] = []
    with AppLock(repository, "tiny", "x", 10, lambda owner: waited_for.append(owner.who)):
        assert waited_for == ["ann@elsewhere"], "told once"


def test_an_expired_lock_is_taken_over_and_its_owner_notices(repository: Path) -> None:
    with AppLock(repository, "tiny", "promote tiny 2") as slow:
        slow.require()
        write_owner(repository)
        with pytest.raises(LockedError, match=r"lost the lock of tiny .*ann@elsewhere"):
            slow.require()
    owner = read_owner(repository, "tiny")
    assert owner is not None
    assert owner.who == "ann@elsewhere", "its end does not end another one's lock"


def test_a_lock_is_renewed(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "EXPIRY_S", 0.6)
    with AppLock(repository, "tiny", "watch tiny"):
        for _ in range(15):
            time.sleep(0.1)
            assert is_locked(repository, "tiny")


def test_a_torn_lock_file_is_no_lock(repository: Path) -> None:
    lock_path(repository, "tiny").write_text('{"who": "ann')
    with AppLock(repository, "tiny", "stage tiny 2"):
        assert is_locked(repository, "tiny")


def hold_and_die(repository: Path) -> None:
    with AppLock(repository, "tiny", "promote tiny 2"):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_of_this_machine_holds_nothing(repository: Path) -> None:
    process = DOOMED.Process(target=hold_and_die, args=(repository,))
    process.start()
    process.join(60)
    assert lock_path(repository, "tiny").exists()
    with AppLock(repository, "tiny", "stage tiny 2"):
        pass


def take_turns(repository: Path, counter: Path, times: int) -> None:
    for _ in range(times):
        with AppLock(repository, "tiny", "count", 60):
            number = int(counter.read_text())
            time.sleep(0.002)
            counter.write_text(str(number + 1))


def test_many_operators_take_turns(repository: Path) -> None:
    counter = repository / "counter"
    counter.write_text("0")
    workers = [DOOMED.Process(target=take_turns, args=(repository, counter, 10)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert counter.read_text() == "40"
