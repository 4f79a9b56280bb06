"""What the manifests start is what `tritium` has, and it starts."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.calls import infer
from tests.deploy.helm.charts import (
    ROOT,
    SETS,
    all_containers,
    container,
    of_kind,
    pods,
    render,
    rendered,
    server,
    values_of,
)
from tests.deploy.tiny_repository import TinyApp, publish
from tests.support.command_line import TRITIUM
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException
from typer.main import get_command

from tritium_client.cli import build_app
from tritium_deploy import Ports
from tritium_deploy.rollout.settings import read_settings

KEY = "a-key-of-more-than-sixteen-letters"
READY_TIMEOUT_S = 60.0


def parse(arguments: list[str]) -> None:
    """Have the real command line read arguments, and run nothing.

    Raises:
        Exception: Typer's UsageError: it has no such verb, option or value.
    """
    app, missing = build_app()
    assert not missing
    command: Any = get_command(app)
    context = command.make_context("tritium", list(arguments))
    while hasattr(command, "resolve_command"):  # a group of commands
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    assert command.name in arguments


def command_lines() -> list[tuple[str, list[str]]]:
    """Every `tritium` that a pod runs."""
    found = []
    for name in SETS:
        for who, pod in pods(rendered(name)):
            found += [
                (f"{name}: {who}: {one['name']}", one["args"])
                for one in all_containers(pod["spec"])
                if one.get("command") == ["tritium"]
            ]
    path = ROOT / "deploy" / "kserve" / "inferenceservice.yaml"
    predictor = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]["predictor"]
    return found + [(f"kserve: {one['name']}", one["args"]) for one in all_containers(predictor)]


@pytest.mark.parametrize(("who", "arguments"), command_lines(), ids=lambda given: str(given)[:50])
def test_tritium_has_every_option(who: str, arguments: list[str]) -> None:
    parse(arguments)


def test_a_wrong_option_would_be_found() -> None:
    for wrong in (["serve", "--drain-time-out=30"], ["rollout", "stage", "a", "2", "--watch=3"]):
        with pytest.raises(Exception, match="No such option"):
            parse(wrong)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("stage", ["stage", "openmoji", "2"]),
        ("canary", ["canary", "openmoji", "2", "--percent=5", "--watch=300"]),
        ("promote", ["promote", "openmoji", "2", "--watch=300"]),
        ("rollback", ["rollback", "openmoji"]),
    ],
)
def test_a_job_runs_each_command_of_a_rollout(command: str, told: list[str]) -> None:
    values = values_of("canary")
    values["rollout"]["command"] = command
    (pod,) = [pod for name, pod in pods(render(values)) if f"-{command}-openmoji" in name]
    arguments = container(pod, "rollout")["args"]
    assert arguments[1 : len(told) + 1] == told
    assert arguments[len(told) + 1].startswith("--repository=")
    parse(arguments)


def test_the_settings_of_a_rollout_are_a_rollout_toml(tmp_path: Path) -> None:
    values = values_of("canary")
    values["rollout"]["settings"]["watch"] = {"seconds": 300, "failures": 5}
    (data,) = [
        one["data"] for one in of_kind(render(values), "ConfigMap") if "rollout.toml" in one["data"]
    ]
    path = tmp_path / "rollout.toml"
    path.write_text(data["rollout.toml"], encoding="utf-8")
    settings = read_settings(path)
    assert (settings.gates.accuracy_margin, settings.watch.failures) == (0.5, 5)


@dataclass(frozen=True)
class Pod:
    """A pod of the set `cpu`, run here: its folders and ports are others."""

    ports: Ports
    process: subprocess.Popen[bytes]
    spec: dict[str, Any]

    def get(self, probe: str) -> int:
        """Ask what a probe of Kubernetes asks, and return the status."""
        asked = container({"spec": self.spec}, "serve")[probe]["httpGet"]
        port = {"ready": self.ports.ready}[asked["port"]]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{asked['path']}") as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def client(self) -> InferenceServerClient:
        return InferenceServerClient(f"127.0.0.1:{self.ports.grpc}")

    def queue_seconds(self) -> dict[str, float]:
        """Model -> the seconds that requests have waited for it."""
        url = f"http://127.0.0.1:{self.ports.metrics}/metrics"
        with urllib.request.urlopen(url) as answer:
            text = answer.read().decode()
        found = re.findall(r'^nv_inference_queue_duration_us{model="(.+?)".* (\S+)$', text, re.M)
        return {model: float(value) / 1e6 for model, value in found}


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """Its init containers to their end, then its server until it is ready."""
    folder = tmp_path_factory.mktemp("pod")
    publish(folder / "models", TinyApp(app="openmoji"))
    for name in ("secret", "run/tritium", "tmp"):
        (folder / name).mkdir(parents=True)
    (folder / "secret" / "admin.key").write_text(KEY)
    (folder / "secret" / "admin.key").chmod(0o440)  # as kubelet makes it with fsGroup
    places = {
        "/models": f"{folder}/models",
        "/secret": f"{folder}/secret",
        "/run/tritium": f"{folder}/run/tritium",
        "0.0.0.0": "127.0.0.1",
    }
    spec = server(rendered("cpu"))["spec"]["template"]["spec"]
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}

    def words(one: dict[str, Any]) -> list[str]:
        line = [*one["command"], *one.get("args", [])]
        for place, here in places.items():
            line = [word.replace(place, here) for word in line]
        return [TRITIUM if word == "tritium" else word for word in line]

    for one in spec["initContainers"]:
        subprocess.run(words(one), check=True, timeout=60, env=environment, capture_output=True)
    ports = Ports.free()
    given = [
        f"--grpc-port={ports.grpc}",
        f"--metrics-port={ports.metrics}",
        f"--ready-port={ports.ready}",
    ]
    with (folder / "events").open("wb") as events:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *words(container({"spec": spec}, "serve")), *given],
            stdout=events,
            stderr=events,
            env=environment,
        )
    try:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while '"event": "ready"' not in (said := (folder / "events").read_text()):
            assert time.monotonic() < deadline, said
            assert process.poll() is None, said
            time.sleep(0.05)
        yield Pod(ports, process, spec)
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.e2e
def test_probes_find_the_server_ready(pod: Pod) -> None:
    assert [pod.get(one) for one in ("startupProbe", "readinessProbe", "livenessProbe")] == [
        200
    ] * 3


@pytest.mark.e2e
def test_the_key_of_a_secret_guards_model_control(pod: Pod) -> None:
    """The file that kubelet makes is readable by its group; `tritium serve` refuses such a one."""
    with pod.client() as client:
        with pytest.raises(InferenceServerException):
            client.get_model_repository_index()
        headers = {"triton-grpc-protocol-admin-key": KEY}
        assert client.get_model_repository_index(headers=headers).models


@pytest.mark.e2e
def test_queued_requests_are_what_the_autoscaler_sums(pod: Pod) -> None:
    """Four requests, one after the other through one process: 1 + 2 + 3 times as long in queues.
    Were ensembles to count their steps' queues again, the sum would be twice or three times that.
    """
    before, took = pod.queue_seconds(), 0.2

    def ask() -> None:
        with pod.client() as client:
            text = f"sleep {took} {os.urandom(4).hex()}".encode()
            infer(client, "openmoji_classify_text", {"text": text})

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    deadline = time.monotonic() + 10
    waited = 0.0
    while waited < 5 * took and time.monotonic() < deadline:  # Triton counts after it answered
        time.sleep(0.1)
        waited = sum(pod.queue_seconds().values()) - sum(before.values())
    assert 5 * took < waited < 9 * took


def health_checks() -> list[tuple[str, list[str]]]:
    """What Docker asks containers."""
    folder = ROOT / "deploy" / "docker"
    found = []
    for name in ("Dockerfile.serve", "Dockerfile.serve-cpu"):
        text = (folder / name).read_text(encoding="utf-8")
        (words,) = re.findall(r"^HEALTHCHECK (?:.|\\\n)*?(\[.*\])$", text, re.MULTILINE)
        found.append((name, json.loads(words)))
    services = yaml.safe_load((folder / "compose.yaml").read_text(encoding="utf-8"))["services"]
    test = services["serve-cpu"]["healthcheck"]["test"]
    assert test[0] == "CMD"
    return [*found, ("compose.yaml", test[1:])]


@pytest.mark.e2e
@pytest.mark.parametrize(("who", "words"), health_checks(), ids=lambda given: str(given)[:22])
def test_health_checks_tell_a_server_from_none(who: str, words: list[str], pod: Pod) -> None:
    def code(port: int) -> int:
        line = [word.replace(":8003", f":{port}") for word in words]
        assert line != words, f"{who} asks another port: {shlex.join(words)}"
        return subprocess.run(line, check=False, timeout=20, capture_output=True).returncode

    assert code(pod.ports.ready) == 0
    assert code(Ports.free().ready) != 0


@pytest.mark.e2e
def test_sigterm_ends_the_pod_well_within_its_grace(pod: Pod) -> None:
    """The last one here: it stops the server."""
    started = time.monotonic()
    pod.process.send_signal(signal.SIGTERM)
    wait = container({"spec": pod.spec}, "serve")["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = pod.spec["terminationGracePeriodSeconds"] - wait
    assert pod.process.wait(grace) == 0
    assert time.monotonic() - started < grace
