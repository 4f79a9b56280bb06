"""Several servers behind one client: turns, ejection, recovery, and no call lost with one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.demo_repository import expected_label, write_repository
from tests.support.triton import free_port, triton_server

from tritium_client import (
    AppNotFound,
    AsyncClient,
    Client,
    RetryPolicy,
    ServerUnavailable,
    TritiumClientError,
)
from tritium_client._call import Call
from tritium_client._health import FIRST_EJECTION_S, LONGEST_EJECTION_S, Rotation
from tritium_client._options import Method
from tritium_client._sync.pool import PoolTransport
from tritium_client._sync.transport import GrpcTransport
from tritium_client._translation import not_loaded


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_servers_take_turns() -> None:
    rotation = Rotation(3, first=0)
    chosen = []
    for _ in range(7):
        chosen.append(rotation.choose())
        rotation.succeeded(chosen[-1])
    assert chosen == [0, 1, 2, 0, 1, 2, 0]


def test_a_server_that_failed_is_left_out_and_tried_by_one_request() -> None:
    clock = Clock()
    rotation = Rotation(2, clock, first=0)
    assert rotation.choose() == 0
    rotation.failed(0)
    assert [rotation.choose() for _ in range(4)] == [1, 1, 1, 1]
    clock.now += FIRST_EJECTION_S
    assert rotation.choose() == 0
    assert [rotation.choose() for _ in range(3)] == [1, 1, 1], "one trial at a time"
    rotation.failed(0)
    clock.now += FIRST_EJECTION_S
    assert rotation.choose() == 1, "the second time takes twice as long"
    clock.now += FIRST_EJECTION_S
    assert rotation.choose() == 0
    rotation.succeeded(0)
    assert [rotation.choose() for _ in range(4)] == [1, 0, 1, 0]


def test_when_all_are_gone_the_next_one_due_is_tried() -> None:
    clock = Clock()
    rotation = Rotation(2, clock, first=0)
    rotation.failed(0)
    clock.now += 0.01
    rotation.failed(1)
    assert rotation.choose() == 0


def test_a_trial_that_was_given_up_is_made_again() -> None:
    clock = Clock()
    rotation = Rotation(2, clock, first=0)
    rotation.failed(0)
    clock.now += 1
    assert rotation.choose() in {0, 1}
    rotation.gave_up(0)
    assert 0 in {rotation.choose(), rotation.choose()}


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(["ok", "fail", "give up", "wait"]), st.floats(0, 3))),
)
def test_some_server_is_always_chosen_and_none_is_left_out_for_ever(
    count: int, events: list[tuple[str, float]]
) -> None:
    clock = Clock()
    rotation = Rotation(count, clock)
    for event, seconds in events:
        index = rotation.choose()
        assert 0 <= index < count
        if event == "ok":
            rotation.succeeded(index)
        elif event == "fail":
            rotation.failed(index)
        elif event == "give up":
            rotation.gave_up(index)
        clock.now += seconds
    for index in range(count):
        rotation.gave_up(index)
    clock.now += LONGEST_EJECTION_S
    seen = set()
    for _ in range(2 * count):
        seen.add(rotation.choose())
    assert seen == set(range(count))


def test_many_new_clients_do_not_all_begin_with_the_same_server() -> None:
    assert {Rotation(3).choose() for _ in range(200)} == {0, 1, 2}


def test_a_request_goes_to_no_server_twice_in_a_round() -> None:
    rotation = Rotation(3, Clock(), first=0)
    rotation.failed(1)
    asked: list[int] = []
    while (index := rotation.choose_another(asked)) is not None:
        asked.append(index)
    assert asked == [0, 2, 1], "the one that is left out comes last"


class Scripted:
    """A server that answers with its own name, or fails as it is told to."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.failure: TritiumClientError | None = None
        self.asked = 0

    def send(self, method: Method, request: Any, call: Call, **_: Any) -> str:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return self.endpoint

    def close(self) -> None:
        pass


class Pool:
    """Two servers, `coming` and `going`, behind a pool."""

    def __init__(self) -> None:
        self.coming, self.going = Scripted("coming"), Scripted("going")
        self._pool = PoolTransport([self.coming, self.going])

    def ask(self) -> str:
        with Call(self._pool.endpoint, 5) as call:
            answer: str = self._pool.send("ModelInfer", None, call, model="pets_classify")
        return answer


def test_a_server_that_came_back_is_asked_before_a_call_fails_at_one_that_goes() -> None:
    pool = Pool()
    pool.coming.failure = ServerUnavailable("it is being started")
    for _ in range(2):  # until its turn has come, and it is left out
        with suppress(ServerUnavailable):
            pool.ask()
    pool.coming.failure = None
    pool.going.failure = not_loaded("going", "pets_classify")
    assert pool.ask() == "coming"


def test_an_app_that_nobody_has_is_not_found_though_a_server_is_down() -> None:
    pool = Pool()
    pool.coming.failure = ServerUnavailable("it is down")
    pool.going.failure = AppNotFound("there is no such app")
    for _ in range(10):  # by then the one that is down is left out, and its turn comes last
        with pytest.raises(TritiumClientError) as caught:
            pool.ask()
    assert (caught.value, caught.value.endpoint) == (pool.going.failure, "going")


@pytest.mark.parametrize("url", [[], ["a:8001", "b"], "a:8001,b:8001", ["http://a:8001"], [""]])
def test_urls_that_are_none_are_refused(url: list[str] | str) -> None:
    with pytest.raises(ValueError, match="url"):
        Client(url)


class Load:
    """Fifty calls a second from five threads, each of which must be answered rightly.

    Args:
        client: Makes them.
    """

    def __init__(self, client: Client) -> None:
        self.calls = 0
        self.requests = 0
        """What the answers say of how often they were asked for."""
        self.failed: list[Exception] = []
        self._client = client
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(5)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def _call(self, number: int) -> None:
        text = "x" * (number + 1)
        due = time.monotonic() + number / 50
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due += 0.1
            try:
                answer = self._client.classify(text=text, timeout_s=5)
                assert answer.label == expected_label(1, text=text.encode())
            except (TritiumClientError, AssertionError) as error:
                self.failed.append(error)
            else:
                with self._lock:
                    self.calls += 1
                    self.requests += answer.timing.attempts


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, bool]]:
    """(endpoint, whether it answered) -> inference requests that the transport sent."""
    counts: Counter[tuple[str, bool]] = Counter()
    lock = threading.Lock()
    send = GrpcTransport.send

    def counted(self: GrpcTransport, method: Method, *rest: Any, **named: Any) -> Any:
        answered = False
        try:
            answer = send(self, method, *rest, **named)
            answered = True
            return answer
        finally:
            if method == "ModelInfer":
                with lock:
                    counts[self.endpoint, answered] += 1

    monkeypatch.setattr(GrpcTransport, "send", counted)
    return counts


@pytest.mark.e2e
def test_one_of_two_servers_is_killed_under_load_and_comes_back(
    tmp_path: Path, sent: Counter[tuple[str, bool]]
) -> None:
    repository = write_repository(tmp_path / "repo", texts_only=True)
    ports = [free_port(), free_port()]
    urls = [f"127.0.0.1:{port}" for port in ports]
    with (
        triton_server(repository, port=ports[0]),
        Client(urls, app="demo") as client,
        ExitStack() as until_counted,
    ):
        with triton_server(repository, port=ports[1]) as second:
            load = until_counted.enter_context(Load(client))
            time.sleep(1)
            second.process.kill()
            second.process.wait()
            time.sleep(2)
            of_the_killed = sent[urls[1], True]
        with triton_server(repository, port=ports[1]):
            deadline = time.monotonic() + 2 * LONGEST_EJECTION_S
            while served(urls[1]) < 20:
                assert time.monotonic() < deadline, "the server that came back gets nothing"
                time.sleep(0.2)
            until_counted.close()
            assert counted_by(urls[0], sent[urls[0], True])
            assert counted_by(urls[1], sent[urls[1], True] - of_the_killed)
    assert load.failed == []
    assert load.calls > 150
    assert of_the_killed > 10
    assert load.calls == sent[urls[0], True] + sent[urls[1], True]
    assert load.requests == sent.total()
    assert sent[urls[0], False] == 0, "nothing was wrong with the one that lived"
    assert 0 < sent[urls[1], False] < 25, "a few that were in flight, and the trials"


def served(url: str) -> int:
    """Requests that a server answered, as it counts them itself."""
    from tritonclient.grpc import InferenceServerClient

    one = InferenceServerClient(url)
    statistics = one.get_inference_statistics("demo_classify_text")
    one.close()
    return sum(int(model.inference_stats.success.count) for model in statistics.model_stats)


def counted_by(url: str, answers: int) -> bool:
    """Whether a server counts as many; it does so a moment after it has answered."""
    deadline = time.monotonic() + 5
    while served(url) != answers and time.monotonic() < deadline:
        time.sleep(0.05)
    return served(url) == answers


@pytest.mark.e2e
def test_the_error_names_the_server_that_was_asked_last() -> None:
    urls = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"]
    policy = RetryPolicy(attempts=2, first_pause_s=0.01)
    with Client(urls, app="demo", retries=policy) as client:
        assert client.endpoint == ",".join(urls)
        with pytest.raises(ServerUnavailable) as caught:
            client.classify(text="x", timeout_s=5)
    assert caught.value.endpoint in urls
    assert caught.value.endpoint in str(caught.value)
    assert caught.value.attempts == 2

    async def ask() -> None:
        async with AsyncClient(urls, app="demo", retries=policy) as one:
            with pytest.raises(ServerUnavailable):
                await one.classify(text="x", timeout_s=5)

    asyncio.run(ask())


ASK_BY_NAME = """
from tritium_client import Client
with Client("{name}:{port}", app="demo") as client:
    for _ in range(20):
        client.classify(text="x", timeout_s=20)
"""


@pytest.mark.e2e
@pytest.mark.skipif(os.geteuid() != 0, reason="gives a process its own /etc/hosts; needs root")
def test_a_name_with_two_addresses_is_two_servers(tmp_path: Path) -> None:
    hosts, name, port = tmp_path / "hosts", "two-servers.test", free_port()
    hosts.write_text("".join(f"127.0.0.{host} {name}\n" for host in (1, 2)))
    repository = write_repository(tmp_path / "repo", texts_only=True)
    script = ASK_BY_NAME.replace("{name}", name).replace("{port}", str(port))
    with (
        triton_server(repository, port=port) as first,
        triton_server(repository, port=port, host="127.0.0.2") as second,
    ):
        mount = 'mount --bind "$1" /etc/hosts && exec "$2" -c "$3"'
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", mount, "sh", str(hosts), sys.executable, script],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if "unshare:" in done.stderr or "mount:" in done.stderr:
            pytest.skip(done.stderr.strip())
        assert done.returncode == 0, done.stderr
        # Until the second connection stands, the first one has all the calls.
        counts = served(first.url), served(second.url)
    assert sum(counts) == 20
    assert min(counts) >= 5
