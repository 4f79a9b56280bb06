"""What dies or fills up on the way: the live release serves, status says so, and it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.deploy.rollout.conftest import QUICK, answered_by

from tritium_builders.release import live_release
from tritium_deploy import Server
from tritium_deploy.errors import RolloutError, ServeError
from tritium_deploy.rollout import Rollout
from tritium_deploy.rollout.plan import StepEvent

pytestmark = pytest.mark.e2e


STEPS = ["load ", "point 3", "write 3", "canary share"]
MORE_STEPS = ["answer ", "measure "] if os.environ.get("TRITIUM_TEST_FULL") else []


@pytest.mark.parametrize("step", [*STEPS, *MORE_STEPS])
def test_a_server_that_dies_amid_a_step_comes_back_with_what_is_live(
    repository: Path, start: Callable[..., Server], step: str
) -> None:
    server = start()
    killed = False

    def kill(event: StepEvent) -> None:
        nonlocal killed
        if event.kind == "begin" and step in event.text and not killed:
            killed = True
            os.kill(server.pid, signal.SIGKILL)
            with pytest.raises(ServeError):
                server.wait(20)

    verb: Callable[[Rollout], object] = lambda rollout: rollout.promote("tiny", 2)  # noqa: E731
    if step == "canary share":
        verb = lambda rollout: rollout.canary("tiny", 2, 50)  # noqa: E731
    with Rollout(repository, [server.grpc_url], settings=QUICK, on_step=kill) as rollout:
        if step == "write 3":
            verb(rollout)  # it had switched already
        elif step != "canary share":
            with pytest.raises(RolloutError):
                verb(rollout)
        else:
            verb(rollout)  # the repository says it, and the server finds it there
        assert killed
        state = rollout.status("tiny")
        assert state.live == (2 if step == "write 3" else 1)
        assert state.servers[0].problem
    server.close()
    again = start(ports=server.ports)
    assert answered_by(again) == {str(live_release(repository, "tiny"))}
    with Rollout(repository, [again.grpc_url], settings=QUICK) as rollout:
        verb(rollout)
        rollout.promote("tiny", 2)
        assert answered_by(again) == {"2"}
        assert rollout.status("tiny").consistent


ON_A_FULL_DISK = """
import json, pathlib, sys
from tests.deploy.rollout.conftest import CANDIDATE, LIVE, QUICK, answered_by
from tests.deploy.tiny_repository import publish, publish_candidate
from tritium_deploy import Ports, serve
from tritium_deploy.errors import RolloutError
from tritium_deploy.rollout import Rollout

repository = pathlib.Path(sys.argv[1]) / "repository"
repository.mkdir()
publish(repository, LIVE)
publish_candidate(repository, CANDIDATE)
filler = repository.parent / "filler"

def fill(event):
    if event.kind == "begin" and event.text.startswith("write 3"):
        try:
            with filler.open("wb") as file:
                while True:
                    file.write(bytes(4096))
                    file.flush()
        except OSError:
            pass

said = {}
with serve(repository, ports=Ports.free()) as server:
    with Rollout(repository, [server.grpc_url], settings=QUICK, on_step=fill) as rollout:
        try:
            rollout.promote("tiny", 2)
        except (RolloutError, OSError) as error:
            said["error"] = str(error)
        said["answered"] = sorted(answered_by(server))
        said["live"] = rollout.status("tiny").live
    filler.unlink()
    with Rollout(repository, [server.grpc_url], settings=QUICK) as rollout:
        rollout.promote("tiny", 2)
        said["again"] = sorted(answered_by(server))
        said["consistent"] = rollout.status("tiny").consistent
print(json.dumps(said))
"""


def test_a_full_disk_leaves_the_live_release_and_room_makes_it_work(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=2m none "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, ON_A_FULL_DISK],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[3],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this machine lets nobody mount a tmpfs")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert "No space left" in said["error"]
    assert (said["answered"], said["live"]) == (["1"], 1)
    assert (said["again"], said["consistent"]) == (["2"], True)
