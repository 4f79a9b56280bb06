"""A thousand malformed gRPC requests, and callers that send slowly: the server goes on."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.deploy.calls import alive
from tests.deploy.tiny_repository import publish
from tests.support.malformed import LIES, PREFACE, SETTINGS, SHARES, lies, malformed, streams

from tritium_client import Client
from tritium_deploy import Ports, Server, serve
from tritium_deploy.errors import ServerDiedError

pytestmark = pytest.mark.e2e

FULL = bool(os.environ.get("TRITIUM_TEST_FULL"))
COUNT = 20_000 if FULL else 1_000
WARM_UP = 300
MAX_GROWTH_MB = 50
IN_FLIGHT = 8
SLOW = 20
DRAIN_S = 1.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("repository")
    publish(repository)
    one = serve(repository, ports=Ports.free())
    try:
        yield one
    finally:
        one.close(DRAIN_S)


def own_mb(server: Server) -> float:
    """Memory of tritonserver and its stubs that is theirs alone."""
    total = 0
    for pid in server.pids:
        status = Path(f"/proc/{pid}/status").read_text()
        total += int(re.findall(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)[0])
    return total / 1024


def send_all(server: Server, count: int) -> Counter[tuple[str, str]]:
    def one(item: object) -> tuple[str, str]:
        kind, send = item.kind, item.send  # type: ignore[attr-defined]
        return kind, send(server.grpc_url)

    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        return Counter(pool.map(one, malformed(count)))


class SlowSenders:
    """Callers that send a byte now and then, and never finish."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.rpartition(":")
        self._stack = ExitStack()
        self._sockets = [
            self._stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
            for _ in range(SLOW)
        ]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._drip)

    def _drip(self) -> None:
        content = PREFACE + SETTINGS + b"\0\xff\xff\x01\x04\0\0\0\x01" + b"\x82" * 10_000
        for byte in content:
            for one in self._sockets:
                try:
                    one.send(bytes([byte]))
                except OSError:
                    continue  # told to go
            if self._stop.wait(0.02):
                return

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._stack.close()


def test_a_thousand_of_them_leave_the_server_as_it_was(server: Server) -> None:
    pids = server.pids
    with SlowSenders(server.grpc_url), Client(server.grpc_url, app="tiny") as client:
        send_all(server, WARM_UP)
        before = own_mb(server)
        stop = threading.Event()
        asked: list[float] = []

        def go_on_asking() -> None:
            while not stop.is_set():
                began = time.monotonic()
                assert client.classify(text="red apple", timeout_s=10).release == 1
                asked.append(time.monotonic() - began)

        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(go_on_asking)
            outcomes = send_all(server, COUNT)
            stop.set()
            other.result(30)
        assert sum(outcomes.values()) == COUNT
        assert len({kind for kind, _ in outcomes}) == len(SHARES)
        assert len(asked) > 10, "others were answered meanwhile"
        after = own_mb(server)
    assert server.pids == pids, "nothing of it died"
    assert server.ready
    assert after - before < MAX_GROWTH_MB, f"{before:.0f} -> {after:.0f} MB"


@pytest.mark.parametrize("name", LIES)
def test_every_lie_is_refused(server: Server, name: str) -> None:
    """Or answered, where Triton does not look at what is wrong with it."""
    case = lies(list(LIES).index(name))
    outcome = case.send(server.grpc_url)
    refused = ("INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED")
    assert outcome in (*refused, "answered")
    assert server.ready


def test_nothing_listens_for_http_unless_it_is_asked_for(server: Server) -> None:
    """What crashes this Triton over HTTP (CVE-2025-23310, CVE-2025-23311) has nowhere to go."""
    assert server.http_url is None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.ports.http), timeout=5)


def test_streams_that_are_left_cost_the_drain_its_time_and_no_more(server: Server) -> None:
    """Triton 24.10 counts a request of a stream that was left as one in flight, for ever.

    The last test: it ends the server.
    """
    for seed in range(10):
        streams(2 * seed).send(server.grpc_url)
    pids, began = server.pids, time.monotonic()
    assert not server.close(DRAIN_S), "newer Tritons may drain: then docs/hostile-inputs.md is old"
    assert time.monotonic() - began < DRAIN_S + 10
    assert not alive(pids)


@pytest.mark.full
def test_what_crashes_triton_over_http_needs_http_on_loopback(
    repository: Path, start: Callable[..., Server]
) -> None:
    """The request itself (CVE-2025-23311), so that it is known when a newer Triton takes it."""
    publish(repository)
    server = start(http=True, host="0.0.0.0")
    with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
        socket.create_connection((own_address(), server.ports.http), timeout=2)
    head = (
        b"POST /v2/models/tiny_classify_text/infer HTTP/1.1\r\nHost: x\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    chunks = b"1\r\nA\r\n" * 1_000_000 + b"0\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", server.ports.http), timeout=60) as connection,
        contextlib.suppress(OSError),
    ):
        connection.sendall(head + chunks)
        connection.recv(100)
    with pytest.raises(ServerDiedError, match="was killed by SIGSEGV"):
        server.wait(30)


def own_address() -> str:
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # nothing is sent
        address: str = probe.getsockname()[0]
        return address


def test_the_page_and_the_list_agree() -> None:
    page = (Path(__file__).parents[3] / "docs" / "hostile-inputs.md").read_text(encoding="utf-8")
    kinds = Counter(item.kind for item in malformed(1000))
    for kind, count in kinds.items():
        assert re.search(rf"^\| {kind} \|.*\| {count} \|$", page, re.MULTILINE), kind
    words = " ".join(page.split())
    assert [name for name in LIES if name not in words] == []
