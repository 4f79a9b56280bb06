"""`tritium rollout` as people and scripts give it, and who may give it."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.deploy.rollout.conftest import QUICK, answered_by
from tests.support.command_line import tritium_inside
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from tritium_deploy import Security, Server
from tritium_deploy.errors import AdminKeyError, KeyRefusedError
from tritium_deploy.rollout import Rollout
from tritium_deploy.security.admin_key import read_key, read_or_make_key

GATES = "[gates]\nlatency_ratio = 20\nlatency_pairs = 20\n"


def tritium(*words: str, cwd: Path, gates: str = GATES) -> subprocess.CompletedProcess[str]:
    (cwd / "rollout.toml").write_text(gates)
    main = "from tritium_client.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", main, "rollout", *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
    )


@pytest.mark.e2e
def test_the_whole_way_by_hand(server: Server, repository: Path, tmp_path: Path) -> None:
    where = ("--repository", str(repository), "--endpoint", server.grpc_url)
    planned = tritium("promote", "tiny", "2", *where, "--dry-run", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert "plan: promote tiny 2 (nothing was changed)" in planned.stdout
    assert "1. verify " in planned.stdout
    for verb in (("stage", "tiny", "2"), ("canary", "tiny", "2", "--percent", "5")):
        done = tritium(*verb, *where, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "top-1 accuracy" in done.stdout
    done = tritium("promote", "tiny", "2", *where, "--watch", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "done: promote tiny 2" in done.stdout
    assert "watched: release 2" in done.stdout
    assert answered_by(server) == {"2"}
    # A slip of the pen in rollout.toml bars no way back, and nothing else is done with it.
    slip = "[gates]\nlatency_ration = 20\n"
    refused = tritium("promote", "tiny", "1", *where, cwd=tmp_path, gates=slip)
    assert "rollout.toml: gates.latency_ration" in refused.stderr
    planned = tritium("rollback", "tiny", *where, "--dry-run", cwd=tmp_path, gates=slip)
    assert "plan: rollback tiny" in planned.stdout, planned.stderr
    shown = tritium("status", *where, cwd=tmp_path, gates=slip)
    assert "live" in shown.stdout
    assert "promote release 2 in place of 1" in shown.stdout
    state = json.loads(tritium("status", "tiny", *where, "--json", cwd=tmp_path).stdout)
    assert (state["live"], state["consistent"]) == (2, True)
    assert state["servers"][0]["loaded"] == [1, 2]
    done = tritium("rollback", "tiny", *where, "--reason", "a test", "--json", cwd=tmp_path)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1]["event"] == "done"
    assert answered_by(server) == {"1"}
    assert "(a test)" in tritium("status", *where, cwd=tmp_path).stdout


@pytest.mark.e2e
def test_what_is_refused_says_so_in_one_line(server: Server, repository: Path) -> None:
    where = ("--repository", str(repository), "--endpoint", server.grpc_url)
    for words, line in (
        (("stage", "tiny", "9", *where), "error: tiny release 9 cannot be staged"),
        (("promote", "other", "2", *where), "has no app other with a live release"),
        (
            ("status", "tiny", "--repository", "nowhere", "--endpoint", server.grpc_url),
            "error: repository nowhere does not exist",
        ),
        (("retire", "tiny", "1", *where), "release 1 is live; it stays"),
    ):
        done = tritium_inside("rollout", *words)
        assert done.returncode == 1
        assert line in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
    done = tritium_inside("rollout", "promote", "tiny", "2", "--endpoint", "nonsense", *where[:2])
    assert done.returncode == 2
    done = tritium_inside("rollout", "promote", "tiny", "9", *where, "--json")
    assert json.loads(done.stdout.splitlines()[-1])["kind"] == "CandidateError"


@pytest.mark.e2e
def test_model_control_asks_for_the_key(
    repository: Path, start: Callable[..., Server], tmp_path: Path
) -> None:
    path = tmp_path / "admin.key"
    key = read_or_make_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server = start(security=Security(admin_key_file=path))
    assert server.access.admin_key == key
    with (
        InferenceServerClient(server.grpc_url) as client,
        pytest.raises(InferenceServerException, match="restricted"),
    ):
        client.unload_model("tiny_classify")
    for wrong in (None, "x" * 43):
        with (
            Rollout(repository, [server.grpc_url], settings=QUICK, admin_key=wrong) as rollout,
            pytest.raises(KeyRefusedError, match="refuses model control without its admin key"),
        ):
            rollout.promote("tiny", 2)
    assert answered_by(server) == {"1"}
    where = ("--repository", str(repository), "--endpoint", server.grpc_url)
    done = tritium("promote", "tiny", "2", *where, "--admin-key-file", str(path), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert answered_by(server) == {"2"}
    assert server.ready


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    key = read_or_make_key(path)
    assert read_or_make_key(path) == key, "drawn once"
    path.chmod(0o644)
    with pytest.raises(AdminKeyError, match="can be read by others; chmod 600"):
        read_key(path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(AdminKeyError, match="holds no key"):
        read_key(path)
    with pytest.raises(AdminKeyError, match="cannot be read"):
        read_key(tmp_path / "none")
    with pytest.raises(AdminKeyError, match="cannot be written"):
        read_or_make_key(tmp_path / "none" / "admin.key")
