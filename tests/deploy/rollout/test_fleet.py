"""Several servers on one repository: all of them switch or none does; who returns follows."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.deploy.calls import wait_until
from tests.deploy.rollout.conftest import QUICK, Log, answered_by
from tests.deploy.tiny_repository import TinyApp, publish_candidate

from tritium_builders.aliases import point_aliases
from tritium_builders.release import live_release
from tritium_deploy import Server
from tritium_deploy.errors import CandidateError, ServeError, UnreachableError
from tritium_deploy.rollout import Rollout
from tritium_deploy.rollout.fleet import resolve
from tritium_deploy.rollout.plan import StepEvent

Start = Callable[..., Server]


def kill(server: Server) -> None:
    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(ServeError):
        server.wait(20)


@pytest.mark.e2e
def test_three_servers_switch_together_and_one_that_returns_follows(
    repository: Path, start: Start
) -> None:
    servers = [start() for _ in range(3)]
    killed = threading.Event()

    def kill_amid_the_switch(event: StepEvent) -> None:
        if event.kind == "begin" and event.text.startswith("point 3 entry points"):
            kill(servers[1])
            killed.set()

    endpoints = [server.grpc_url for server in servers]
    log = Log()

    def both(event: StepEvent) -> None:
        log(event)
        kill_amid_the_switch(event)

    with Rollout(repository, endpoints, settings=QUICK, on_step=both) as rollout:
        rollout.promote("tiny", 2)
        assert killed.is_set()
        assert [answered_by(servers[index]) for index in (0, 2)] == [{"2"}, {"2"}]
        assert f"without {endpoints[1]}, which will follow" in log.text
        state = rollout.status("tiny")
        assert state.live == 2
        assert [bool(one.problem) for one in state.servers] == [False, True, False]
        servers[1].close()
        again = start(ports=servers[1].ports)
        assert answered_by(again) == {"2"}
        assert rollout.status("tiny").consistent


@pytest.mark.e2e
def test_a_server_that_cannot_load_it_holds_all_of_them_back(
    repository: Path, start: Start
) -> None:
    fault = repository.parent / "fault"
    parameters = {"fault_file": str(fault)}
    candidate = TinyApp(number=3, bias=0.6, labelled=20, parameters={"fusion_head": parameters})
    publish_candidate(repository, candidate)
    first, second = start(), start()
    with Rollout(repository, [first.grpc_url], settings=QUICK) as rollout:
        rollout.stage("tiny", 3)  # on the first one it loads
    fault.write_text("raise")
    endpoints = [first.grpc_url, second.grpc_url]
    with Rollout(repository, endpoints, settings=QUICK) as rollout:
        with pytest.raises(CandidateError, match=f"server {second.grpc_url}: .*truncated"):
            rollout.promote("tiny", 3)
        assert [answered_by(one) for one in (first, second)] == [{"1"}, {"1"}]
        assert rollout.status("tiny").consistent


@pytest.mark.e2e
def test_an_unreachable_server_stops_a_promote_and_no_rollback(
    repository: Path, start: Start, log: Log
) -> None:
    server = start()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        gone = f"127.0.0.1:{free.getsockname()[1]}"
    both = [server.grpc_url, gone]
    with Rollout(repository, both, settings=QUICK, on_step=log) as rollout:
        with pytest.raises(UnreachableError, match=f"server {gone}: does not answer"):
            rollout.promote("tiny", 2)
        assert answered_by(server) == {"1"}
    with Rollout(repository, both, settings=QUICK, skip_unreachable=True) as rollout:
        rollout.promote("tiny", 2)
        assert answered_by(server) == {"2"}
    with Rollout(repository, both, settings=QUICK, on_step=log) as rollout:
        rollout.rollback("tiny")
        assert answered_by(server) == {"1"}
        assert f"going on without a server: server {gone}" in log.text


@pytest.mark.e2e
def test_a_server_goes_after_the_repository_by_itself(repository: Path, start: Start) -> None:
    told, left_alone = start(), start()
    with Rollout(repository, [told.grpc_url], settings=QUICK) as rollout:
        rollout.promote("tiny", 2)
    assert answered_by(left_alone) == {"1"}
    assert wait_until(lambda: answered_by(left_alone) == {"2"}, 15)
    assert wait_until(lambda: left_alone.apps[0].release == 2, 5)
    assert left_alone.ready


@pytest.mark.e2e
def test_a_server_does_not_go_after_a_release_that_does_not_load(
    repository: Path, start: Start
) -> None:
    broken = TinyApp(number=3, parameters={"fusion_head": {"fault": "raise"}})
    release = publish_candidate(repository, broken)
    events: list[str] = []
    server = start(on_event=lambda event: events.append(event.name))
    point_aliases(repository, release)
    assert wait_until(lambda: "not_followed" in events, 20)
    assert answered_by(server) == {"1"}
    assert server.ready
    assert live_release(repository, "tiny") == 3


def test_a_name_with_several_addresses_is_several_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    addresses = ["10.0.0.1", "10.0.0.2", "fd00::1"]
    found = [(0, 0, 0, "", (address, 8001)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert resolve("triton:8001") == ["10.0.0.1:8001", "10.0.0.2:8001", "[fd00::1]:8001"]
    assert resolve("localhost:8001") == ["localhost:8001"]
    found = found[:1]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert resolve("triton:8001") == ["triton:8001"]


def test_what_is_no_endpoint_is_refused() -> None:
    for wrong in ("triton", "triton:", ":8001", "triton:http"):
        with pytest.raises(ValueError, match="is not host:port"):
            resolve(wrong)
    with pytest.raises(UnreachableError, match="cannot be resolved"):
        resolve("no-such-host.invalid:8001")
