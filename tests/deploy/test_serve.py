"""`serve`: what a ready server is, and the ways in which it refuses to become one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc
import psutil
import pytest
from tests.deploy.calls import alive, get, infer, regions, wait_until
from tests.deploy.conftest import Start
from tests.deploy.tiny_repository import TinyApp, golden, publish
from tritonclient.grpc import InferenceServerClient, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tritium_client import Client
from tritium_client._wire import infer_request
from tritium_client.contract import KEEPALIVE_MS
from tritium_deploy import Ports, Server, serve
from tritium_deploy.errors import (
    GoldenError,
    LoadError,
    PortTakenError,
    RepositoryError,
    ServeError,
    TritonNotFoundError,
)
from tritium_deploy.events import Event
from tritium_deploy.server import ServeOptions
from tritium_deploy.stubs import list_stubs

pytestmark = pytest.mark.e2e


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.fixture
def nothing_left(no_new_regions: None) -> object:
    """The test leaves no process and no region behind."""
    before = _children()
    yield
    assert alive(sorted(_children() - before)) == []


def test_every_entry_point_answers_as_at_build(
    shared: Server, connect: Callable[[Server], InferenceServerClient]
) -> None:
    client = connect(shared)
    for sample in golden(TinyApp()):
        given = {"text": sample.text.encode(), "image": sample.image}
        for key, expected in sample.expected.items():
            names = key.split(",")
            suffix = "" if len(names) == 2 else f"_{key}"
            chosen = {name: given[name] for name in names}
            answer = infer(client, f"tiny_classify{suffix}", chosen)
            assert answer == pytest.approx(expected, abs=1e-5)


def test_ready_says_what_is_served(shared: Server) -> None:
    status, body = get(shared.ready_url)
    assert status == 200
    app = body["apps"]["tiny"]
    assert (app["state"], app["release"], app["reason"]) == ("ready", 1, "")
    assert app["golden_at"] is not None
    assert get(shared.live_url) == (200, {"live": True})
    assert get(shared.ready_url.replace("/ready", "/else"))[0] == 404


def test_only_loopback_is_bound_and_http_is_off(shared: Server) -> None:
    processes = [psutil.Process(), *map(psutil.Process, shared.pids)]
    listening = {
        connection.laddr._replace(ip=connection.laddr.ip.removeprefix("::ffff:"))
        for process in processes
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    ports = shared.ports
    assert {address.port for address in listening} >= {ports.grpc, ports.metrics, ports.ready}
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert ports.http not in {address.port for address in listening}
    assert shared.http_url is None


def test_http_answers_when_asked_for(repository: Path, start: Start) -> None:
    publish(repository)
    server = start(http=True)
    assert get(f"{server.http_url}/v2/models/tiny_classify")[1]["name"] == "tiny_classify"


@pytest.mark.e2e
def test_a_name_is_as_good_as_an_address(repository: Path, start: Start) -> None:
    publish(repository)
    server = start(host="localhost")
    for url in (server.metrics_url, server.ready_url, server.step_metrics_url):
        assert url.startswith("http://localhost:")
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.status == 200


def test_a_server_leaves_nothing_behind(repository: Path, nothing_left: None) -> None:
    publish(repository)
    before = sorted(path for path in repository.rglob("*"))
    with serve(repository, ports=Ports.free()) as server:
        pids, log = server.pids, server.log
        assert len(pids) == 6
    assert alive(pids) == []
    assert not log.parent.exists()
    # Above all no __pycache__, which would make Triton start the component again.
    assert sorted(path for path in repository.rglob("*")) == before


def test_the_steps_of_a_start_are_told_in_order(repository: Path, start: Start) -> None:
    publish(repository)
    events: list[Event] = []
    server = start(on_event=events.append)
    names = [event.name for event in events if event.name != "progress"]
    assert names == ["checked", "started", "loaded", "golden", "ready"]
    assert list(server.startup_s) == ["checked", "started", "loaded", "golden"]
    assert events[-1].fields["grpc"] == server.grpc_url
    assert dict(events[-1].fields["apps"]) == {"tiny": 1}


def test_several_apps_and_a_choice_of_them(repository: Path, start: Start) -> None:
    publish(repository, TinyApp(app="one"))
    publish(repository, TinyApp(app="two", bias=0.1, number=3))
    publish(repository, TinyApp(app="three"))
    server = start(apps=["one", "two"])
    assert [(app.app, app.release) for app in server.apps] == [("one", 1), ("two", 3)]
    with Client(server.grpc_url) as client:
        assert client.apps() == ("one", "two")
    # What comes later is found through what was there.
    with InferenceServerClient(server.grpc_url) as triton:
        config = triton.get_model_config("one_classify", as_json=True)["config"]
        assert config["parameters"]["tritium.server.apps"] == {"string_value": '["one", "two"]'}


@pytest.mark.full
def test_a_client_may_ask_every_few_seconds_whether_the_server_is_still_there(
    repository: Path, start: Start
) -> None:
    """With Triton's own limit, the connection of a long call ends at the third such ping."""
    publish(repository)
    server = start()
    options = [
        ("grpc.keepalive_time_ms", KEEPALIVE_MS // 2),  # twice as often as the SDK
        ("grpc.http2.max_pings_without_data", 0),
    ]
    slept = 6 * KEEPALIVE_MS / 2000
    with grpc.insecure_channel(server.grpc_url, options=options) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        text = f"sleep {slept}".encode()
        request = infer_request("tiny_classify_text", {"text": text}, request_id="a")
        assert stub.ModelInfer(request, timeout=60).id == "a"


# --- refusals ----------------------------------------------------------------------------------


def test_a_taken_port_is_named(repository: Path, nothing_left: None) -> None:
    publish(repository)
    for purpose in ("grpc", "metrics", "ready"):
        ports = Ports.free()
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", getattr(ports, purpose)))
            holder.listen()
            with pytest.raises(PortTakenError, match=f"{purpose} port {getattr(ports, purpose)}"):
                serve(repository, ports=ports)


def test_a_port_taken_after_the_check_is_found_in_the_log(
    repository: Path, nothing_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(repository)
    monkeypatch.setattr("tritium_deploy.triton.require_free", lambda *_: None)
    for purpose in ("grpc", "metrics"):
        ports = Ports.free()
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", getattr(ports, purpose)))
            holder.listen()
            with pytest.raises(PortTakenError, match=f"{purpose} port"):
                serve(repository, ports=ports)


def test_another_triton_on_the_port_is_left_alone(
    repository: Path, shared: Server, nothing_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(repository, TinyApp(app="other"))
    monkeypatch.setattr("tritium_deploy.triton.require_free", lambda *_: None)
    with pytest.raises(PortTakenError, match="grpc port"):
        serve(repository, ports=replace(Ports.free(), grpc=shared.ports.grpc))
    assert shared.ready
    assert get(shared.ready_url)[0] == 200


@pytest.mark.parametrize("program", ["missing", "not_executable", "no_backends", "fails"])
def test_a_wrong_tritonserver_is_one_line(
    program: str, repository: Path, tmp_path: Path, nothing_left: None
) -> None:
    publish(repository)
    binary = tmp_path / "installation" / "bin" / "tritonserver"
    binary.parent.mkdir(parents=True)
    if program != "missing":
        binary.write_text(
            "#!/bin/sh\necho 'error: creating server: Internal - no licence'\nexit 7\n"
        )
    if program in ("no_backends", "fails"):
        binary.chmod(0o755)
    if program == "fails":
        (tmp_path / "installation" / "backends" / "python").mkdir(parents=True)
    expected = ServeError if program == "fails" else TritonNotFoundError
    with pytest.raises(expected) as caught:
        serve(repository, ports=Ports.free(), tritonserver=binary)
    assert "\n" not in str(caught.value)
    if program == "fails":
        assert "exit status 7" in str(caught.value)
        assert "no licence" in str(caught.value)


@pytest.mark.parametrize("missing", ["repository", "app", "release", "file", "golden", "image"])
def test_an_incomplete_repository_is_refused(missing: str, repository: Path) -> None:
    release = publish(repository)
    folder = repository / "tiny_classify" / "1"
    apps = None
    if missing == "repository":
        repository = repository / "nowhere"
    elif missing == "app":
        apps = ["nowhere"]
    elif missing == "release":
        (folder / "release.json").write_text("{}")
    elif missing == "file":
        (repository / release.components["text_encoder"].model / "1" / "model.py").unlink()
    elif missing == "golden":
        (folder / "golden.jsonl").write_text("")
    else:
        next((folder / "images").iterdir()).unlink()
    words = {"repository": "nowhere", "app": "it has: tiny", "file": "model.py is missing"}
    with pytest.raises(RepositoryError, match=words.get(missing, "tiny, release 1")) as caught:
        serve(repository, ports=Ports.free(), apps=apps)
    assert "\n" not in str(caught.value)


def test_a_truncated_component_is_refused(repository: Path) -> None:
    model = publish(repository).components["fusion_head"].model
    file = repository / model / "1" / "model.py"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(RepositoryError, match=r"model\.py has 100 bytes and was published with"):
        serve(repository, ports=Ports.free())


def test_another_wire_contract_is_refused(repository: Path) -> None:
    publish(repository, TinyApp(wire_version="2.0"))
    with pytest.raises(RepositoryError, match=r"wire contract 2\.0 and this Tritium speaks 1"):
        serve(repository, ports=Ports.free())


def test_a_backend_that_triton_lacks_is_refused(repository: Path) -> None:
    model = publish(repository).components["image_encoder"].model
    config = repository / model / "config.pbtxt"
    text = config.read_text().replace('backend: "python"', 'backend: "tensorrt"')
    config.write_text(text)
    # Its size is part of the release too, so that check has to be satisfied first.
    release = repository / "tiny_classify" / "1" / "release.json"
    content = release.read_text()
    release.write_text(content.replace(f'"bytes": {len(text) - 2}', f'"bytes": {len(text)}'))
    with pytest.raises(RepositoryError, match="needs Triton's tensorrt backend"):
        serve(repository, ports=Ports.free())


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("raise", "the engine file is truncated"), ("exit", "is not healthy"), ("hang", "within 5 s")],
)
def test_a_stub_that_cannot_start_is_one_line(
    fault: str, reason: str, repository: Path, nothing_left: None
) -> None:
    release = publish(repository, TinyApp(parameters={"fusion_head": {"fault": fault}}))
    with pytest.raises(LoadError, match=reason) as caught:
        serve(repository, ports=Ports.free(), options=ServeOptions(load_timeout_s=5))
    assert caught.value.model == release.components["fusion_head"].model
    assert "\n" not in str(caught.value)
    assert str(caught.value.log) in str(caught.value)
    assert caught.value.log.is_file()


def test_a_wrong_golden_answer_keeps_it_from_being_ready(
    repository: Path, nothing_left: None
) -> None:
    publish(repository, TinyApp(wrong_sample=2))
    events: list[Event] = []
    with pytest.raises(GoldenError, match=r"golden-2.*differ by .*tolerance") as caught:
        serve(repository, ports=Ports.free(), on_event=events.append)
    assert caught.value.sample == "golden-2"
    assert "ready" not in [event.name for event in events]


def test_a_small_shared_memory_is_refused(repository: Path) -> None:
    """In a mount namespace of its own, with a /dev/shm of 8 MiB."""
    publish(repository)
    script = textwrap.dedent(f"""
        from tritium_deploy import Ports, serve
        from tritium_deploy.errors import SharedMemoryError
        try:
            serve({str(repository)!r}, ports=Ports.free())
        except SharedMemoryError as error:
            print(error)
    """)
    mount = 'mount -t tmpfs -o size=8m tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-c", script]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this user may not make mount namespaces")
    assert "/dev/shm has 8 MiB free and 29 MiB are needed" in done.stdout, done.stderr


# --- the end -----------------------------------------------------------------------------------


def test_close_finishes_what_is_in_flight(
    repository: Path, start: Start, connect: Callable[[Server], InferenceServerClient]
) -> None:
    publish(repository)
    server = start()
    client, outcomes = connect(server), []
    begun = threading.Barrier(4)

    def ask() -> None:
        begun.wait()
        outcomes.append(infer(client, "tiny_classify_text", {"text": b"sleep 0.5"}))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun.wait()
    # The component works on one at a time, so the last one is still queued when the drain begins.
    infer(client, "tiny_classify_image", {"image": b"x"})
    assert server.close() is True
    for thread in threads:
        thread.join()
    assert len(outcomes) == 3


def test_balancers_may_be_given_time_to_look_elsewhere(
    repository: Path, start: Start, connect: Callable[[Server], InferenceServerClient]
) -> None:
    publish(repository)
    server = start()
    client = connect(server)
    closing = threading.Thread(target=server.close, kwargs={"drain_delay_s": 1.5})
    closing.start()
    assert wait_until(lambda: get(server.ready_url)[0] == 503, 1)
    for _ in range(10):  # who has not heard of it yet is answered
        infer(client, "tiny_classify_image", {"image": b"x"})
        time.sleep(0.05)
    assert get(server.ready_url)[1]["apps"]["tiny"]["state"] == "draining"
    closing.join()
    with pytest.raises(InferenceServerException):
        infer(client, "tiny_classify_image", {"image": b"x"}, 2)


def test_a_drain_that_takes_too_long_is_cut_short_and_said(
    repository: Path, start: Start, connect: Callable[[Server], InferenceServerClient]
) -> None:
    publish(repository)
    server = start()
    client, errors = connect(server), []

    def ask() -> None:
        try:
            infer(client, "tiny_classify_text", {"text": b"sleep 20"})
        except InferenceServerException as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    infer(client, "tiny_classify_image", {"image": b"x"})
    pids = server.pids
    assert server.close(drain_timeout_s=0.5) is False
    thread.join()
    assert len(errors) == 1
    assert alive(pids) == []


def test_a_killed_tritonserver_is_an_error_and_leaves_nothing(
    repository: Path, nothing_left: None
) -> None:
    publish(repository)
    server = serve(repository, ports=Ports.free())
    pids, log = server.pids, server.log
    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(ServeError, match="was killed by SIGKILL") as caught:
        server.wait(30)
    assert str(log) in str(caught.value)
    assert not server.ready
    server.close()
    assert alive(pids) == []
    assert log.is_file()


def test_what_a_killed_server_left_is_removed_by_the_next(
    repository: Path, shared: Server, start: Start, tmp_path: Path
) -> None:
    publish(repository)
    abandoned = Path(shared.log.parent.parent) / "tritium-serve-abandoned"
    abandoned.mkdir()
    (abandoned / "lock").touch()
    (abandoned / "triton.log").write_text("its last words")
    left = Path("/dev/shm/tritium-serve-abandoned_region")
    left.touch()
    held = {stub.region for stub in list_stubs(shared.pid)}
    start()
    assert not left.exists()
    assert held <= regions(), "a living server's regions were removed"
    assert (abandoned / "triton.log").read_text() == "its last words"
    (abandoned / "triton.log").unlink()
    abandoned.rmdir()
