"""Servers die, restart and hang behind Envoy, and nobody's call fails."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from tests.deploy.calls import wait_until
from tests.deploy.envoy.conftest import Calls, Server, load, loopback
from tests.support.envoy import Envoy, envoy

from tritium_client._async.connection import DEFAULT_TIMEOUT_S

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("all_healthy")]

EJECTED_WITHIN_S = 5.0
BACK_WITHIN_S = 10.0


def assert_all_answered(calls: Calls, proxy: Envoy, at_least: int) -> None:
    slowest = max(calls.seconds)
    print(
        f"{len(calls.seconds)} answers, {len(calls.failed)} failures, slowest {slowest:.2f} s, "
        f"{calls.attempts - len(calls.seconds)} sent again by the SDK, "
        f"{proxy.counter('cluster.tritium.upstream_rq_retry')} by Envoy so far"
    )
    assert calls.failed == []
    assert len(calls.seconds) >= at_least


def test_a_killed_server_fails_no_call_and_is_used_again_when_it_is_back(
    servers: list[Server], proxy: Envoy
) -> None:
    victim = servers[0]
    with load(proxy.url) as calls:
        time.sleep(1)
        killed = time.monotonic()
        os.kill(victim.triton, signal.SIGKILL)
        assert wait_until(lambda: victim.ports.grpc not in proxy.healthy(), EJECTED_WITHIN_S)
        print(f"ejected after {time.monotonic() - killed:.1f} s")
        assert victim.end() == 1
        victim.start()
        back = time.monotonic()
        before = proxy.answered(victim.ports.grpc)
        assert wait_until(lambda: proxy.answered(victim.ports.grpc) > before, BACK_WITHIN_S)
        print(f"ready {back - killed:.1f} s after, asked {time.monotonic() - back:.1f} s later")
    assert_all_answered(calls, proxy, 100)


def test_a_rolling_restart_fails_no_call(servers: list[Server], proxy: Envoy) -> None:
    with load(proxy.url) as calls:
        for server in servers:
            os.kill(server.pid, signal.SIGTERM)
            assert server.end() == 0
            server.start()
            assert wait_until(lambda one=server: one.ports.grpc in proxy.healthy(), BACK_WITHIN_S)  # type: ignore[misc]
    assert_all_answered(calls, proxy, 300)


@pytest.mark.parametrize("what", ["tritonserver", "its supervisor", "both"])
def test_a_server_that_hangs_is_left_out_and_fails_no_call(
    what: str, servers: list[Server], proxy: Envoy
) -> None:
    victim = servers[1]
    pids = {"tritonserver": [victim.triton], "its supervisor": [victim.pid]}
    stopped = pids.get(what, [victim.triton, victim.pid])
    with load(proxy.url) as calls:
        time.sleep(0.5)
        hung = time.monotonic()
        try:
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            assert wait_until(lambda: victim.ports.grpc not in proxy.healthy(), EJECTED_WITHIN_S)
            print(f"ejected after {time.monotonic() - hung:.1f} s")
            # Longer than the deadline of the calls that it holds.
            time.sleep(max(0.0, hung + DEFAULT_TIMEOUT_S + 0.3 - time.monotonic()))
            assert victim.ports.grpc not in proxy.healthy()
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        assert wait_until(lambda: victim.ports.grpc in proxy.healthy(), BACK_WITHIN_S)
    assert_all_answered(calls, proxy, 50)


def test_one_of_two_envoys_may_die(servers: list[Server], proxy: Envoy, tmp_path: Path) -> None:
    with envoy(tmp_path, loopback(list(proxy.settings.endpoints), tmp_path)) as other:
        assert wait_until(lambda: len(other.healthy()) == len(servers), 10)
        with load([proxy.url, other.url]) as calls:
            time.sleep(1)
            assert other.counter("http.grpc.downstream_rq_total") > 0
            other.process.kill()
            time.sleep(1.5)
    assert_all_answered(calls, proxy, 80)


@pytest.mark.full
def test_pings_between_requests_end_no_connection(proxy: Envoy, tmp_path: Path) -> None:
    """Triton by itself allows one in two hours, and ends the connection at the third."""
    with envoy(tmp_path, loopback(list(proxy.settings.endpoints), tmp_path)) as fresh:
        with load(fresh.url):
            time.sleep(2)
        before = fresh.counter("cluster.tritium.upstream_cx_total")
        time.sleep(15)
        assert fresh.counter("cluster.tritium.upstream_cx_close_notify") == 0
        assert fresh.counter("cluster.tritium.upstream_cx_active") == before > 0
