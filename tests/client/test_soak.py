"""Many calls leave nothing behind in the process that makes them: tests/support/soak.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.triton import TritonServer

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
FULL = bool(os.environ.get("TRITIUM_TEST_FULL"))
CALLS = 200_000 if FULL else 3_000
TIMEOUT_S = 3_000 if FULL else 120
MAX_GROWTH_MB = 20


def test_many_calls_of_many_clients_leave_nothing_behind(server: TritonServer) -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.support.soak", server.url, str(CALLS)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'client'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        printed, complaints = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    assert process.returncode == 0, complaints
    assert complaints == "", "neither warnings nor tracebacks from the background"
    seen = json.loads(printed)
    print(printed)
    assert seen["wrong"] == []
    assert seen["calls"] > 0.95 * CALLS
    assert set(seen["ends"]) == {
        "cat", "dog", "bird",
        "AppNotFound", "DeadlineExceeded", "InvalidInput", "ServerError", "ValueError",
    }  # fmt: skip
    assert seen["again"] > 0.01 * CALLS, "retries and hedges"
    before, after = seen["before"], seen["after"]
    assert after.pop("resident_mb") - before.pop("resident_mb") < MAX_GROWTH_MB
    assert (after["connections"], after["mapped"]) == (0, 0)
    assert all(after[name] <= before[name] for name in before), (before, after)
    # Names of shared memory carry the process that made it.
    assert [one.name for one in Path("/dev/shm").glob(f"*-{process.pid}-*")] == []
