"""What the readiness port says, in every order in which things can happen."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.deploy.calls import get

from tritium_deploy import Ports
from tritium_deploy.errors import PortTakenError, ServeError
from tritium_deploy.readiness import STATES, ReadinessServer, State, StatusBoard

APPS = st.sampled_from(["one", "two"])


class BoardMachine(RuleBasedStateMachine):
    """Ready exactly when every app is; a failed app and a draining server never come back."""

    def __init__(self) -> None:
        super().__init__()
        self.board = StatusBoard({"one": 1, "two": 2})
        self.expected: dict[str, State] = {"one": "loading", "two": "loading"}
        self.draining = False

    @rule(app=APPS, state=st.sampled_from([state for state in STATES if state != "draining"]))
    def set_state(self, app: str, state: State) -> None:
        changed = self.board.set(app, state, "" if state == "ready" else "why")
        assert changed == (not self.draining and self.expected[app] != "failed")
        if changed:
            self.expected[app] = state

    @rule(app=APPS, only_from=st.sets(st.sampled_from(STATES)))
    def golden_answered(self, app: str, only_from: set[State]) -> None:
        if self.board.set_ready(app, only_from=only_from):
            assert self.expected[app] in only_from
            assert self.expected[app] != "failed"
            self.expected[app] = "ready"

    @rule()
    def drain(self) -> None:
        self.board.drain("going")
        self.draining = True
        self.expected = dict.fromkeys(self.expected, "draining")

    @invariant()
    def ready_means_every_app(self) -> None:
        assert self.board.ready == all(state == "ready" for state in self.expected.values())
        for status in self.board.statuses():
            assert status.state == self.expected[status.app]


TestBoard = BoardMachine.TestCase


@pytest.fixture
def served() -> Iterator[tuple[StatusBoard, str, list[bool]]]:
    """A board behind its port; the list's last item says whether the server lives."""
    board, alive = StatusBoard({"one": 7}), [True]
    port = Ports.free().ready
    server = ReadinessServer("127.0.0.1", port, board, lambda: alive[-1])
    yield board, f"http://127.0.0.1:{port}", alive
    server.close()


def test_the_port_follows_the_board(served: tuple[StatusBoard, str, list[bool]]) -> None:
    board, url, alive = served
    assert get(f"{url}/ready")[0] == 503
    board.set_ready("one")
    assert get(f"{url}/ready")[0] == 200
    board.set("one", "healing", "a stub died")
    status, body = get(f"{url}/ready")
    assert status == 503
    assert body["ready"] is False
    assert body["apps"]["one"]["reason"] == "a stub died"
    board.set_ready("one", healed=True)
    assert get(f"{url}/ready")[1]["apps"]["one"]["heals"] == 1
    assert get(f"{url}/live") == (200, {"live": True})
    alive.append(False)
    assert get(f"{url}/live") == (503, {"live": False})
    assert get(f"{url}/ready")[0] == 503


def test_a_caller_that_says_nothing_does_not_block_others(
    served: tuple[StatusBoard, str, list[bool]],
) -> None:
    _, url, _ = served
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)):
        assert get(f"{url}/live")[0] == 200


def test_a_taken_readiness_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"ready port {port} on 127.0.0.1 is taken"):
            ReadinessServer("127.0.0.1", port, StatusBoard({}), lambda: True)


def test_free_ports_differ_and_are_free() -> None:
    for _ in range(20):
        ports = Ports.free()
        for port in (ports.grpc, ports.metrics, ports.ready, ports.http):
            with socket.create_server(("127.0.0.1", port)):
                pass


def test_an_address_of_another_machine_is_said() -> None:
    with pytest.raises(ServeError, match=r"192\.0\.2\.1 is not an address of this machine"):
        ReadinessServer("192.0.2.1", 18003, StatusBoard({}), lambda: True)
    with pytest.raises(ServeError, match=r"192\.0\.2\.1 is not an address of this machine"):
        Ports.free("192.0.2.1")
    with pytest.raises(ServeError, match=r"host 'a\.b\.invalid' cannot be resolved"):
        Ports.free("a.b.invalid")


@pytest.mark.parametrize("ports", [{"grpc": 0}, {"ready": 70_000}, {"grpc": 8002}])
def test_impossible_ports_are_refused(ports: dict[str, int]) -> None:
    with pytest.raises(ServeError, match="port"):
        Ports(**ports)
