"""docs/runbook.md is followed: a fault is made, seen where the page says, and mended as it says."""

from __future__ import annotations

import shutil

import pytest

from tests.deploy.calls import wait_until
from tests.runbook.night import Night

pytestmark = pytest.mark.e2e

BOTH = ("models-1", "models-2")
KILL_STUB = "pkill -KILL -P $(triton models-1) -f /openmoji_text_encoder_"


@pytest.fixture(autouse=True)
def begun(night: Night) -> None:
    """Both servers are ready with release 1, whatever the chapter before left."""
    night.start(*BOTH)
    if '"release": 2' in night.do("ready"):
        night.do("tritium rollout rollback openmoji")


def test_first_look(night: Night) -> None:
    night.follow("First look", "check")


def test_start(night: Night) -> None:
    """It runs already, so that a second one finds the port taken."""
    night.follow("Start", "check", 0)
    night.follow("Start", "check", 1)


def test_a_restart_loses_no_request(night: Night) -> None:
    with night.callers() as outcomes:
        night.follow("Stop and restart", "do", 0)
        night.follow("Stop and restart", "do", 1)
    assert outcomes.pop("answered") > 20
    assert outcomes == {}


def test_scale(night: Night) -> None:
    night.follow("Scale", "do", 0)
    night.follow("Scale", "do", 1)
    assert "models-3" in (night.site / "envoy" / "envoy.yaml").read_text()
    night.do("stop models-3")
    night.follow("Before you begin", "check")


def test_roll_out_slow_requests_overload_and_roll_back(night: Night) -> None:
    """Release 2 is slow, and its gates were wide; then many callers come at once."""
    night.follow("Roll out", "do")
    night.follow("Roll out", "over")
    night.do("tritium classify --text 'red apple'")
    slow = night.follow("Slow requests", "check")
    assert value_of(slow) > 25_000
    night.do("python -m tests.runbook.crowd models-1:8001 150 & CROWD=$!")
    assert wait_until(lambda: value_of(night.follow("Overload", "check")) > 50)
    night.do("wait $CROWD")
    night.follow("Roll back", "do", 1)
    night.follow("Roll back", "over")
    night.follow("Slow requests", "over")


def test_a_canary_is_taken_back_and_a_forgotten_server_is_found(night: Night) -> None:
    """The forgotten one's supervisor hangs: it cannot follow the repository by itself."""
    night.do("tritium rollout canary openmoji 2 --percent 5")
    night.follow("Roll back", "check")
    night.follow("Roll back", "do", 0)
    night.do("tritium rollout promote openmoji 2")
    night.do("kill -STOP $(process models-2)")
    night.do("tritium rollout rollback openmoji --endpoint models-1:8001")
    night.follow("Release skew", "check")
    night.follow("Release skew", "do")
    night.follow("Release skew", "over")
    night.do("kill -CONT $(process models-2)")


def test_app_not_ready(night: Night) -> None:
    night.do("kill -STOP $(triton models-1)")
    night.follow("App not ready", "check")
    night.follow("App not ready", "do")
    night.follow("App not ready", "over")


def test_golden_samples_fail(night: Night) -> None:
    """Somebody edits a servable in place, and its process starts again."""
    (folder,) = (night.site / "model_repository").glob("openmoji_text_encoder_*")
    source = folder / "1" / "model.py"
    source.write_text(source.read_text().replace("len(text) % 7", "7 + len(text) % 7"))
    shutil.rmtree(folder / "1" / "__pycache__")
    night.do(f"{KILL_STUB}; sleep 0.5")
    night.follow("Golden samples fail", "check")
    night.follow("Golden samples fail", "do")
    night.follow("Golden samples fail", "over")


def test_stub_keeps_crashing(night: Night) -> None:
    said = night.site / "models-1.out"
    for _ in range(4):
        before = said.read_text().count("stub process died")
        night.do(f"up models-1 && {KILL_STUB}")
        assert wait_until(lambda: said.read_text().count("stub process died") > before)  # noqa: B023
    night.follow("Stub keeps crashing", "check")
    night.follow("Stub keeps crashing", "do")
    night.follow("Stub keeps crashing", "over")


def test_requests_fail(night: Night) -> None:
    assert night.machine.run("tritium classify --text 'sleep well'").status == 1
    night.follow("Requests fail", "check")


def test_inputs_are_refused(night: Night) -> None:
    night.follow("Inputs are refused", "do")
    night.follow("Inputs are refused", "check")


def test_memory_grows(night: Night) -> None:
    night.do("tritium classify --text 'grow 300'")
    assert value_of(night.follow("Memory grows", "check")) > 300 << 20
    night.follow("Memory grows", "do")
    assert value_of(night.follow("Memory grows", "over")) < 200 << 20


def value_of(printed: str) -> float:
    """The first line's value."""
    return float(printed.partition("\n")[0].rpartition(" ")[2])


def test_full_disk(night: Night) -> None:
    """It serves, and no release can be staged."""
    night.machine.run("dd if=/dev/zero of=models-1.log bs=1M oflag=append conv=notrunc")
    night.do("dd if=/dev/zero of=/dev/shm/somebodys bs=1M count=20")
    night.follow("Full disk", "check")
    night.do("tritium classify --text 'red apple'")
    staged = night.machine.run("tritium rollout stage openmoji 2")
    assert staged.status == 1
    assert "error: model_repository: No space left on device" in staged.text
    night.follow("Full disk", "do", 0)
    log = night.site / "models-1.log"
    assert 0 < log.stat().st_size < 100_000
    assert "somebodys" in night.follow("Full disk", "do", 1)
    night.follow("Full disk", "over")
    night.do("rm /dev/shm/somebodys")


def test_lost_server(night: Night) -> None:
    with night.callers() as outcomes:
        night.do("kill -KILL $(process models-2); sleep 0.5")
        night.follow("Lost server", "check")
        night.follow("Lost node or zone", "check")
        night.follow("Lost node or zone", "do")
        night.follow("Before you begin", "check")
        night.follow("Lost server", "do")
        night.follow("Lost server", "over")
    assert outcomes.pop("answered") > 50
    assert outcomes == {}


def test_rotate_certificates(night: Night) -> None:
    """One server finds the new ones too late; those that run have a week left."""
    night.certify(night.site, days=-0.1)
    night.do("start models-3; wait $! || true")
    assert "expired on" in (night.site / "models-3.out").read_text()
    assert "`expired on`" in night.chapter("Rotate certificates").text
    night.certify(night.site, days=7)
    night.certify(night.site / "new", days=365)
    shutil.copyfile(night.site / "ca.pem", night.site / "new" / "ca.pem")
    night.follow("Rotate certificates", "check")
    with night.callers() as outcomes:
        night.do("PAUSE=1")  # they were away for seconds, and are tried again the sooner
        night.follow("Rotate certificates", "do")
        night.do("PAUSE=0")
    assert list(outcomes) == ["answered"]
    night.follow("Rotate certificates", "over", 0)
    night.follow("Rotate certificates", "over", 1)


def test_rotate_the_admin_key(night: Night) -> None:
    before = (night.site / "admin.key").read_text()
    (night.site / "leaked.key").write_text(before)
    (night.site / "leaked.key").chmod(0o600)
    night.follow("Rotate the admin key", "do")
    night.follow("Rotate the admin key", "over")
    assert (night.site / "admin.key").read_text() != before
    refused = night.machine.run("tritium rollout stage openmoji 2 --admin-key-file leaked.key")
    assert refused.status == 1
    assert "refuses model control" in refused.text


def test_every_command_of_the_page_was_run(night: Night, request: pytest.FixtureRequest) -> None:
    chosen = {item.name for item in request.session.items}
    if not {name for name in globals() if name.startswith("test_")} <= chosen:
        pytest.skip("only a part of the page was followed")
    lines = {step.line for chapter in night.chapters.values() for step in chapter.steps}
    assert lines == night.followed
