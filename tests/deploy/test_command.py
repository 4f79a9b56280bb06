"""`tritium serve` as a process: what it prints, how it ends, and what it leaves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.deploy.calls import alive, infer, regions, wait_until
from tests.deploy.processes import PROGRAM, Serve
from tests.deploy.tiny_repository import TinyApp, publish
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.e2e

SLOW_TO_RETURN = f"""
import time
from tritium_deploy.server import Server
start = Server._start
Server._start = lambda server: (start(server), time.sleep(1))
{PROGRAM}
"""
"""Between the event "ready" and the return of `serve` lies a second in place of microseconds."""


@pytest.fixture
def run(repository: Path) -> Iterator[Callable[..., Serve]]:
    """Start `tritium serve` on `repository`; whatever is left is killed after the test."""
    started: list[Serve] = []

    def begin(*arguments: str, program: str = PROGRAM) -> Serve:
        started.append(Serve(repository, *(arguments or ("--free-ports",)), program=program))
        return started[-1]

    yield begin
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()
        assert one.process.stdout is not None
        one.process.stdout.close()


@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl-C"])
def test_a_signal_under_load_loses_nothing_that_was_accepted(
    how: str, repository: Path, run: Callable[..., Serve], no_new_regions: None
) -> None:
    publish(repository)
    server = run()
    ready = server.until("ready")
    pids = server.descendants()
    assert ready["apps"] == {"tiny": 1}
    outcomes: list[str] = []
    stop = threading.Event()

    def ask(client: InferenceServerClient, entry_point: str, given: dict[str, bytes]) -> None:
        while not stop.is_set():
            try:
                infer(client, entry_point, given)
            except InferenceServerException as error:
                outcomes.append(str(error.status()).removeprefix("StatusCode."))
                return
            outcomes.append("OK")

    with InferenceServerClient(ready["grpc"]) as client:
        threads = [
            threading.Thread(target=ask, args=(client, f"tiny_classify{suffix}", given))
            for suffix, given in (
                ("", {"text": b"sleep 0.02", "image": b"x"}),
                ("_text", {"text": b"sleep 0.02"}),
                ("_image", {"image": b"x"}),
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        assert wait_until(lambda: len(outcomes) > 50)
        if how == "SIGTERM":
            server.process.send_signal(signal.SIGTERM)
        else:
            # A terminal sends it to every process of the group.
            os.killpg(server.process.pid, signal.SIGINT)
        for thread in threads:
            thread.join(60)
        stop.set()
    assert server.end() == 0
    assert server.names[-2:] == ["draining", "stopped"]
    assert server.events[-1]["drained"] is True
    # Each thread ends with the first request that was not accepted. UNAVAILABLE would be one in
    # flight that a server without a drain cut off.
    assert set(outcomes) == {"OK", "NOT_FOUND"}
    assert outcomes.count("OK") == len(outcomes) - len(threads)
    assert alive(pids) == []


def test_whoever_reads_ready_may_stop_it_at_once(
    repository: Path, run: Callable[..., Serve], no_new_regions: None
) -> None:
    publish(repository)
    server = run(program=SLOW_TO_RETURN)
    server.until("ready")
    server.process.terminate()
    assert server.end() == 0, server.events
    assert server.names[-2:] == ["draining", "stopped"]


def test_a_second_signal_stops_at_once(
    repository: Path, run: Callable[..., Serve], no_new_regions: None
) -> None:
    publish(repository)
    server = run("--free-ports", "--drain-timeout", "300")
    ready = server.until("ready")
    pids = server.descendants()
    with InferenceServerClient(ready["grpc"]) as client:

        def ask() -> None:
            with pytest.raises(InferenceServerException):
                infer(client, "tiny_classify_text", {"text": b"sleep 100"}, timeout_s=200)

        thread = threading.Thread(target=ask)
        thread.start()
        infer(client, "tiny_classify_image", {"image": b"x"})
        server.process.send_signal(signal.SIGINT)
        server.until("draining")
        # Passed on twice, as `timeout` and `make` do: that is still one wish.
        server.process.send_signal(signal.SIGINT)
        time.sleep(1.5)
        assert thread.is_alive()
        server.process.send_signal(signal.SIGINT)
        assert server.end() == 1
        thread.join()
    assert server.events[-1]["drained"] is False
    assert alive(pids) == []


def test_sigkill_of_the_supervisor_ends_everything(
    repository: Path, run: Callable[..., Serve], no_new_regions: None
) -> None:
    publish(repository)
    server = run()
    server.until("ready")
    pids = server.descendants()
    assert len(pids) == 7
    server.process.kill()
    server.process.wait()
    assert wait_until(lambda: not alive(pids), 15)
    assert list(repository.parent.glob("tritium-serve-*/backends")) == []


def test_a_killed_guard_ends_the_command(
    repository: Path, run: Callable[..., Serve], no_new_regions: None
) -> None:
    publish(repository)
    server = run()
    server.until("ready")
    pids = server.descendants()
    psutil.Process(server.process.pid).children()[0].kill()
    assert server.end() == 1
    assert "guard" in server.events[-1]["text"]
    assert alive(pids) == []


def test_what_even_the_guard_could_not_remove_is_removed_by_the_next_start(
    repository: Path, run: Callable[..., Serve], no_new_regions: None
) -> None:
    publish(repository)
    first = run()
    first.until("ready")
    pids = first.descendants()
    guard = psutil.Process(first.process.pid).children()[0]
    assert len(regions()) >= 5
    # Stopped, it can neither notice the end of the others nor clean up after them.
    guard.suspend()
    first.process.kill()
    guard.kill()
    second = run()
    second.until("ready")
    assert wait_until(lambda: not alive(pids), 15)
    second.process.terminate()
    assert second.end() == 0, second.events


def test_a_killed_tritonserver_ends_the_command(
    repository: Path, run: Callable[..., Serve], no_new_regions: None
) -> None:
    publish(repository)
    server = run()
    triton = server.until("started")["pid"]
    server.until("ready")
    pids = server.descendants()
    os.kill(triton, signal.SIGKILL)
    assert server.end() == 1
    assert server.names[-1] == "error"
    assert "was killed by SIGKILL" in server.events[-1]["text"]
    assert alive(pids) == []


def test_a_signal_while_starting_leaves_nothing(
    repository: Path, run: Callable[..., Serve], no_new_regions: None
) -> None:
    publish(repository, TinyApp(parameters={"text_encoder": {"fault": "hang"}}))
    server = run()
    server.until("started")
    assert wait_until(lambda: len(server.descendants()) > 2)
    pids = server.descendants()
    server.process.send_signal(signal.SIGTERM)
    assert server.end() == 1
    assert server.events[-1]["kind"] == "Interrupted"
    assert alive(pids) == []


@pytest.mark.parametrize("fault", ["raise", "port", "repository", "same_ports"])
def test_a_refused_start_is_one_line_and_exit_1(
    fault: str, repository: Path, run: Callable[..., Serve], no_new_regions: None
) -> None:
    parameters: Any = {"fusion_head": {"fault": "raise"}} if fault == "raise" else {}
    if fault != "repository":
        publish(repository, TinyApp(parameters=parameters))
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        arguments = {"port": ["--grpc-port", port], "same_ports": ["--grpc-port", "8002"]}
        server = run(*arguments.get(fault, ["--free-ports"]))
        assert server.end() == 1
    assert server.names[-1] == "error"
    expected = {
        "raise": "the engine file is truncated",
        "port": f"grpc port {port} on 127.0.0.1 is taken",
        "repository": "has no live app; run `tritium build` first",
        "same_ports": "each port must be another one",
    }
    assert expected[fault] in server.events[-1]["text"]
    assert "\n" not in server.events[-1]["text"]
    assert server.names.count("ready") == 0


def test_the_command_imports_nothing_heavy_until_it_runs() -> None:
    code = (
        "import sys, tritium_deploy.commands; "
        "print([name for name in ('grpc', 'psutil', 'numpy', 'pydantic', 'rich.progress') "
        "if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert done.stdout.strip() == "[]"
