"""Dead, stopped and hung stubs under load: noticed, said, healed, and not for ever."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.deploy.calls import exported, get, infer, regions, wait_until
from tests.deploy.conftest import Start
from tests.deploy.tiny_repository import TinyApp, golden, publish, publish_candidate
from tests.support.command_line import tritium
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from tritium_builders.aliases import point_aliases
from tritium_deploy import Server
from tritium_deploy.events import Event
from tritium_deploy.server import ServeOptions
from tritium_deploy.stubs import Stub, list_stubs
from tritium_deploy.watch import DeathRecord, WatchOptions

Connect = Callable[[Server], InferenceServerClient]
HEALED_WITHIN_S = 5.0
"""Issue 2: within 5 s the app answers again."""


def _stubs(server: Server, role: str) -> list[Stub]:
    name = re.compile(rf"tiny_{role}_[0-9a-f]{{12}}")
    return [stub for stub in list_stubs(server.pid) if name.fullmatch(stub.model)]


@dataclass
class Load:
    """Requests from several threads until told to stop."""

    client: InferenceServerClient
    entry_point: str
    given: dict[str, bytes]
    stop: threading.Event = field(default_factory=threading.Event)
    outcomes: list[tuple[float, str]] = field(default_factory=list)
    """When each request was sent, and its gRPC status or `OK`."""
    messages: set[str] = field(default_factory=set)
    """What failed requests were told."""

    def __post_init__(self) -> None:
        self._threads = [threading.Thread(target=self._run) for _ in range(3)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self.stop.is_set():
            sent = time.monotonic()
            try:
                infer(self.client, self.entry_point, self.given, timeout_s=10)
                outcome = "OK"
            except InferenceServerException as error:
                outcome = str(error.status()).removeprefix("StatusCode.")
                self.messages.add(f"{outcome}: {error.message()}")
            self.outcomes.append((sent, outcome))


@pytest.mark.e2e
@pytest.mark.parametrize("instances", [1, 2])
def test_a_killed_stub_is_replaced_under_load(
    instances: int, repository: Path, start: Start, connect: Connect
) -> None:
    publish(repository, TinyApp(instances=instances))
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*")}
    events: list[Event] = []
    server = start(on_event=events.append)
    victim = _stubs(server, "text_encoder")[0]
    client = connect(server)
    sample = golden(TinyApp())[0]
    load = {"text": sample.text.encode(), "image": sample.image}
    with Load(client, "tiny_classify", load) as traffic:
        assert wait_until(lambda: len(traffic.outcomes) > 20)
        killed_at = time.monotonic()
        os.kill(victim.pid, signal.SIGKILL)
        assert wait_until(lambda: not server.ready, 2)
        assert get(server.ready_url)[0] == 503
        assert wait_until(lambda: server.ready, HEALED_WITHIN_S)
        ready_again = time.monotonic()
        enough = len(traffic.outcomes) + 100
        assert wait_until(lambda: len(traffic.outcomes) > enough)
    assert ready_again - killed_at < HEALED_WITHIN_S
    # What met the dead stub, or the moment in which Triton puts the new one in its place, fails
    # with a code that the SDK may retry; what is sent to a ready server succeeds.
    codes = Counter(outcome for _, outcome in traffic.outcomes)
    assert codes.keys() <= {"OK", "INTERNAL", "UNAVAILABLE"}, traffic.messages
    assert {outcome for sent, outcome in traffic.outcomes if sent > ready_again} == {"OK"}
    assert len(_stubs(server, "text_encoder")) >= instances
    assert victim.region not in regions()
    for entry_point, given_ in (
        ("tiny_classify_text", {"text": load["text"]}),
        ("tiny_classify_image", {"image": load["image"]}),
    ):
        key = entry_point.rpartition("_")[2]
        assert infer(client, entry_point, given_) == pytest.approx(sample.expected[key], abs=1e-5)
    assert server.apps[0].heals == 1
    assert [event.name for event in events][-2:] == ["stub_died", "healed"]
    assert events[-2].text.endswith("its stub process died (SIGKILL)")
    # The repository may be read-only, and other servers may load from it.
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*")} == before


@pytest.mark.e2e
def test_of_several_instances_the_second_death_is_seen_and_no_old_one_stays(
    repository: Path, start: Start, connect: Connect
) -> None:
    publish(repository, TinyApp(instances=2))
    server = start(options=ServeOptions(watch=WatchOptions(replaced_s=3)))
    first = _stubs(server, "text_encoder")
    load = {"text": golden(TinyApp())[0].text.encode(), "image": golden(TinyApp())[0].image}
    with Load(connect(server), "tiny_classify", load) as traffic:
        assert wait_until(lambda: len(traffic.outcomes) > 20)
        os.kill(first[0].pid, signal.SIGKILL)
        assert wait_until(lambda: server.apps[0].heals == 1, HEALED_WITHIN_S)
        # The other one of before may still live, as a third: it must not hide the next death.
        pids = {stub.pid for stub in first}
        second = next(one for one in _stubs(server, "text_encoder") if one.pid not in pids)
        os.kill(second.pid, signal.SIGKILL)
        assert wait_until(lambda: server.apps[0].heals == 2, HEALED_WITHIN_S)
        assert wait_until(lambda: len(_stubs(server, "text_encoder")) == 2, 3 + HEALED_WITHIN_S)
        assert wait_until(lambda: first[1].region not in regions())
    assert server.ready


@pytest.mark.e2e
def test_all_stubs_killed_at_once_come_back(repository: Path, start: Start) -> None:
    publish(repository)
    server = start()
    old = list_stubs(server.pid)
    for stub in old:
        os.kill(stub.pid, signal.SIGKILL)
    assert wait_until(lambda: not server.ready, 2)
    assert wait_until(lambda: server.ready, HEALED_WITHIN_S + 5)
    assert wait_until(lambda: len(list_stubs(server.pid)) == len(old))
    assert regions().isdisjoint(stub.region for stub in old)


@pytest.mark.e2e
def test_a_stub_that_keeps_dying_is_given_up(
    repository: Path, start: Start, connect: Connect
) -> None:
    publish(repository)
    publish(repository, TinyApp(app="other"))
    events: list[Event] = []
    server = start(on_event=events.append)
    for _ in range(4):
        assert wait_until(lambda: server.ready)
        os.kill(_stubs(server, "fusion_head")[0].pid, signal.SIGKILL)
        assert wait_until(lambda: not server.ready)
    model = _stubs(server, "fusion_head")
    assert wait_until(lambda: "given_up" in [event.name for event in events])
    time.sleep(1.5)
    assert _stubs(server, "fusion_head") == model, "it was started once more"
    status, body = get(server.ready_url)
    assert status == 503
    app = body["apps"]["tiny"]
    assert app["state"] == "failed"
    assert "died more than 3 times in 60 s and is not restarted again" in app["reason"]
    assert "(the last time: SIGKILL): no word of it in the log; see" in app["reason"]
    assert str(server.log) in app["reason"]
    # Triton itself says that it is ready.
    ended = tritium("status", "--url", server.grpc_url, "--app", "tiny")
    assert ended.returncode == 1
    assert re.search(r"^tiny: does not answer: classify text \+ image: .* died", ended.stdout, re.M)
    # Other apps go on.
    assert body["apps"]["other"]["state"] == "ready"
    assert infer(connect(server), "other_classify_text", {"text": b"hello"}).shape == (3,)


@pytest.mark.e2e
def test_an_app_that_failed_is_ready_again_with_another_release(
    repository: Path, start: Start
) -> None:
    first = publish(repository)
    server = start(options=ServeOptions(watch=WatchOptions(probe_every_s=0.3)))
    for _ in range(4):
        assert wait_until(lambda: server.ready)
        os.kill(_stubs(server, "fusion_head")[0].pid, signal.SIGKILL)
        assert wait_until(lambda: not server.ready)
    assert wait_until(lambda: server.apps[0].state == "failed")
    # Another head: what its server went after answers its golden samples.
    point_aliases(repository, publish_candidate(repository))
    assert wait_until(lambda: server.ready, 20)
    assert server.apps[0].release == 2
    # What was given up stays so for as long as it is loaded.
    point_aliases(repository, first)
    assert wait_until(lambda: server.apps[0].state == "failed", 20)
    assert "is not restarted again" in server.apps[0].reason


@pytest.mark.e2e
def test_a_component_that_cannot_start_again_is_given_up_with_its_reason(
    repository: Path, start: Start, tmp_path: Path
) -> None:
    fault = tmp_path / "fault"
    publish(repository, TinyApp(parameters={"fusion_head": {"fault_file": str(fault)}}))
    server = start()
    fault.write_text("raise")
    os.kill(_stubs(server, "fusion_head")[0].pid, signal.SIGKILL)
    assert wait_until(lambda: server.apps[0].state == "failed", 15)
    assert "RuntimeError: the engine file is truncated" in server.apps[0].reason


@pytest.mark.e2e
def test_a_stopped_stub_is_replaced(repository: Path, start: Start, connect: Connect) -> None:
    publish(repository)
    server = start()
    os.kill(_stubs(server, "image_encoder")[0].pid, signal.SIGSTOP)
    assert wait_until(lambda: not server.ready, 5)
    assert wait_until(lambda: server.ready, HEALED_WITHIN_S)
    assert infer(connect(server), "tiny_classify_image", {"image": b"x"}).shape == (3,)


@pytest.mark.e2e
def test_a_tritonserver_that_hangs_is_not_ready_within_five_seconds(
    repository: Path, start: Start, connect: Connect
) -> None:
    publish(repository)
    server = start()
    os.kill(server.pid, signal.SIGSTOP)
    try:
        assert wait_until(lambda: get(server.ready_url)[0] == 503, 5)
        assert "has not answered for" in server.apps[0].reason
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert wait_until(lambda: server.ready, HEALED_WITHIN_S)
    assert infer(connect(server), "tiny_classify_image", {"image": b"x"}).shape == (3,)


@pytest.mark.e2e
def test_a_hung_stub_makes_the_app_unwell_until_it_answers(
    repository: Path, start: Start, connect: Connect
) -> None:
    publish(repository)
    options = WatchOptions(probe_every_s=0.2, probe_timeout_s=0.5)
    events: list[Event] = []
    server = start(options=ServeOptions(watch=options), on_event=events.append)
    client = connect(server)
    busy = threading.Thread(
        target=infer, args=(client, "tiny_classify_text", {"text": b"sleep 4"}), daemon=True
    )
    busy.start()
    assert wait_until(lambda: server.apps[0].state == "unwell", 10)
    assert exported(server, 'tritium_golden_probe_failures_total{app="tiny"}') >= 2
    assert "no answer within 0.5 s" in server.apps[0].reason
    busy.join()
    assert wait_until(lambda: server.ready, 10)
    assert [event.name for event in events][-2:] == ["unwell", "recovered"]


@given(
    limit=st.integers(0, 5),
    gaps=st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=30),
)
def test_a_component_is_healed_while_its_deaths_are_few(limit: int, gaps: list[float]) -> None:
    window, now, times = 60.0, 0.0, []
    clock = {"now": 0.0}
    record = DeathRecord(limit, window, now=lambda: clock["now"])
    for gap in gaps:
        now += gap
        clock["now"] = now
        times.append(now)
        recent = [one for one in times if one >= now - window]
        assert record.add("model") == (len(recent) <= limit)
    assert record.add("another") == (limit >= 1)
