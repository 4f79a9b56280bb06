"""Large inputs through shared memory: the same answers, and nothing left behind by anybody."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.demo_repository import expected_label, write_repository
from tests.support.triton import TritonServer, free_port, triton_server
from tritonclient.grpc import InferenceServerClient

from tritium_client import AsyncClient, Client, DeadlineExceeded, ServerError
from tritium_client import _shared_memory as memory
from tritium_client._call import Call
from tritium_client._options import Method
from tritium_client._shared_memory import FOLDER, PREFIX, Region, RegionPool, remove_stale
from tritium_client._sync.shared_memory import SharedMemoryTransport
from tritium_client._wire import infer_request

LARGE = 600 * 1024


def picture(first_byte: int, size: int = LARGE) -> bytes:
    return bytes([first_byte]) + bytes(size - 1)


def regions() -> set[str]:
    return {path.name for path in FOLDER.glob(f"*{PREFIX}*")}


def registered(url: str) -> set[str]:
    with InferenceServerClient(url) as triton:
        return set(triton.get_system_shared_memory_status().regions)


@pytest.fixture
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    before = regions()
    yield
    assert regions() == before


@pytest.fixture
def sharing(server: TritonServer, nothing_left: None) -> Iterator[Client]:
    with Client(server.url, app="demo", transport="shared_memory") as client:
        yield client
    assert registered(server.url) == set()


@pytest.mark.e2e
def test_answers_are_the_same_and_large_inputs_are_shared(
    sharing: Client, server: TritonServer
) -> None:
    for number in range(6):
        answer = sharing.classify(image=picture(number), text="x" * (number + 1))
        text = b"x" * (number + 1)
        assert answer.label == expected_label(1, text=text, first_byte=number)
    used = regions()
    assert len(used) == 1, "one after the other, they need one region"
    assert next(iter(used)).startswith(f"{PREFIX}{os.getpid()}-")
    assert registered(server.url) == used
    sharing.classify(image=picture(1, 1000))
    sharing.classify(image=picture(2, 5 * LARGE))
    assert len(regions()) == 2


@pytest.mark.e2e
def test_many_at_a_time_are_not_mixed_up(sharing: Client) -> None:
    def ask(number: int) -> bool:
        first = number % 200
        answer = sharing.classify(image=picture(first), timeout_s=60)
        return answer.label == expected_label(1, first_byte=first)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(200)))
    assert len(regions()) <= 8


@pytest.mark.e2e
def test_the_async_client_shares_too(server: TritonServer, nothing_left: None) -> None:
    async def ask() -> None:
        async with AsyncClient(server.url, app="demo", transport="shared_memory") as client:
            calls = [client.classify(image=picture(number)) for number in range(20)]
            answers = await asyncio.gather(*calls)
            assert [one.label for one in answers] == [
                expected_label(1, first_byte=number) for number in range(20)
            ]
            assert regions()

    asyncio.run(ask())
    assert registered(server.url) == set()


@pytest.mark.e2e
def test_a_region_that_the_server_may_still_read_is_not_written_again(sharing: Client) -> None:
    slow = b"sleep1".ljust(LARGE)
    with pytest.raises(DeadlineExceeded):
        sharing.classify(image=slow, timeout_s=0.3)
    assert regions() == set()
    assert registered(sharing.endpoint), "Triton 2.51 refuses to forget what it reads"
    answer = sharing.classify(image=picture(7), timeout_s=20)
    assert answer.label == expected_label(1, first_byte=7)
    time.sleep(1)  # the server works to the end of what nobody waits for


KILLED = """
import os, signal
from tritium_client import Client
client = Client("{url}", app="demo", transport="shared_memory")
client.classify(image=bytes([3]) + bytes(600 * 1024))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.e2e
def test_what_a_killed_client_left_is_removed_by_the_next(
    server: TritonServer, nothing_left: None
) -> None:
    script = KILLED.replace("{url}", server.url)
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    left = regions()
    assert left
    assert left <= registered(server.url)
    with Client(server.url, app="demo", transport="shared_memory") as client:
        client.classify(image=picture(1))
        assert regions().isdisjoint(left)
        assert registered(server.url).isdisjoint(left)
    assert registered(server.url) == set()


FORGETFUL = """
from tritium_client import Client
client = Client("{url}", app="demo", transport="shared_memory")
client.classify(image=bytes([3]) + bytes(600 * 1024))
"""


@pytest.mark.e2e
def test_a_client_that_nobody_closed_leaves_no_region(
    server: TritonServer, nothing_left: None
) -> None:
    script = FORGETFUL.replace("{url}", server.url)
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert regions() == set()
    with Client(server.url, app="demo", transport="shared_memory") as client:
        client.classify(image=picture(1))  # tidies the server up
    assert registered(server.url) == set()


@pytest.mark.e2e
def test_a_server_that_was_killed_and_came_back_is_told_again(
    tmp_path: Path, nothing_left: None
) -> None:
    repository, port = write_repository(tmp_path / "repo"), free_port()
    with Client(f"127.0.0.1:{port}", app="demo", transport="shared_memory") as client:
        with triton_server(repository, port=port) as first:
            client.classify(image=picture(1))
            first.process.kill()
            first.process.wait()
        with triton_server(repository, port=port):
            time.sleep(1)
            answer = client.classify(image=picture(5), timeout_s=20)
            assert answer.label == expected_label(1, first_byte=5)
            assert regions()
            assert registered(f"127.0.0.1:{port}") == regions()


@pytest.mark.e2e
@pytest.mark.parametrize("obstacle", ["no room", "no folder"])
def test_without_room_everything_travels_as_messages(
    server: TritonServer, monkeypatch: pytest.MonkeyPatch, obstacle: str, nothing_left: None
) -> None:
    if obstacle == "no room":
        monkeypatch.setattr(memory, "MOST_BYTES", 1000)
    else:
        monkeypatch.setattr(memory, "FOLDER", Path("/nowhere"))
    with Client(server.url, app="demo", transport="shared_memory") as client:
        for number in range(3):
            answer = client.classify(image=picture(number))
            assert answer.label == expected_label(1, first_byte=number)


@pytest.mark.e2e
def test_a_server_that_keeps_shared_memory_to_itself_gets_messages(
    tmp_path: Path, nothing_left: None
) -> None:
    refuse = ["--grpc-restricted-protocol=shared-memory:key=value"]
    with (
        triton_server(write_repository(tmp_path / "repo"), arguments=refuse) as closed,
        Client(closed.url, app="demo", transport="shared_memory") as client,
    ):
        for number in range(3):
            answer = client.classify(image=picture(number))
            assert answer.label == expected_label(1, first_byte=number)


class Late:
    """A server that lets the deadline of every registration pass."""

    endpoint = "late:1"

    def send(self, method: Method, request: Any, call: Call, **_: Any) -> Any:
        del request, call
        raise DeadlineExceeded("too late") if "Register" in method else ServerError(method)

    def close(self) -> None: ...


def test_a_call_that_ends_before_its_region_is_registered_leaves_none(nothing_left: None) -> None:
    transport = SharedMemoryTransport(Late())
    request = infer_request("demo_classify_image", {"image": picture(1)}, request_id="a")
    for _ in range(3):
        with pytest.raises(DeadlineExceeded):
            transport.send("ModelInfer", request, Call("late:1", 5))
        assert regions() == set()
    assert transport._pool.lend(memory.MOST_BYTES) is not None, "and all of the room is free"


def test_a_region_whose_making_a_crash_cut_short_is_removed_when_it_is_old(
    nothing_left: None,
) -> None:
    path = FOLDER / f"{memory.NEW_PREFIX}{PREFIX}1-abc"
    path.touch()
    remove_stale()
    assert path.exists(), "somebody may be making it"
    os.utime(path, (0, time.time() - 2 * memory.MADE_WITHIN_S))
    remove_stale()
    assert not path.exists()


def test_a_transport_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="transport is one of auto, grpc, shared_memory"):
        Client("localhost:8001", transport="pigeon")  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.integers(1, 3 * 1024 * 1024), st.booleans()), max_size=12))
def test_no_region_is_lent_twice_at_a_time(requests: list[tuple[int, bool]]) -> None:
    before = regions()
    pool = RegionPool()
    lent: list[Region] = []
    for size, ends in requests:
        region = pool.lend(size)
        assert region is not None
        assert region.size >= size
        assert region.name not in {other.name for other in lent}
        lent.append(region)
        if ends:
            pool.give_back(lent.pop(0))
    remove_stale()
    assert {region.name for region in lent} <= regions(), "living regions are nobody's to remove"
    pool.close()
    for region in lent:
        pool.give_back(region)
    assert regions() == before


FORKING = """
import os
from tritium_client._shared_memory import FOLDER, RegionPool, is_stale
pool = RegionPool()
region = pool.lend(10)
child = os.fork()
if child == 0:
    raise SystemExit  # with every finalizer
os.waitpid(child, 0)
print((FOLDER / region.name).exists(), is_stale(region.name))
"""


def test_a_region_outlives_the_children_of_its_process(nothing_left: None) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["True", "False"]
