"""Hand-written requests, so that these tests do not depend on the SDK."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tritonclient.grpc import InferenceServerClient, InferInput

from tritium_deploy import Server

TIMEOUT_S = 30.0


def infer(
    client: InferenceServerClient,
    entry_point: str,
    given: Mapping[str, bytes],
    timeout_s: float = TIMEOUT_S,
) -> Any:
    """Ask one entry point; `given` is modality -> what a caller sends.

    Returns:
        The probabilities, FP32 [labels].
    """
    return ask(client, entry_point, given, timeout_s)[0]


def ask(
    client: InferenceServerClient,
    entry_point: str,
    given: Mapping[str, bytes],
    timeout_s: float = TIMEOUT_S,
) -> tuple[Any, str]:
    """Ask one entry point.

    Returns:
        The probabilities, FP32 [labels], and the version that answered: of what callers name, the
        release.
    """
    inputs = []
    for name, value in given.items():
        tensor = InferInput(name, [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[value]], dtype=np.object_))
        inputs.append(tensor)
    result = client.infer(entry_point, inputs, client_timeout=timeout_s)
    return result.as_numpy("probabilities").reshape(-1), result.get_response().model_version


def get(url: str) -> tuple[int, dict[str, Any]]:
    """GET a JSON body, whatever the status."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def exported(server: Server, name: str) -> float:
    """The value of one line of what `tritium serve` exports for Prometheus."""
    with urllib.request.urlopen(server.step_metrics_url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name} ")]
    return float(line.split()[-1])


def executions(client: InferenceServerClient, model: str) -> int:
    """How often a model has run, as far as Triton has counted."""
    return int(client.get_inference_statistics(model).model_stats[0].execution_count)


def executions_at_rest(client: InferenceServerClient, model: str) -> int:
    """How often a model has run, nobody asking now. Triton counts a run after its answer has
    gone, so this waits for a number that stays."""
    while True:
        before = executions(client, model)
        time.sleep(0.3)
        if executions(client, model) == before:
            return before


def wait_until(condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> bool:
    """Poll until something holds; says whether it did."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def alive(pids: tuple[int, ...] | list[int]) -> list[int]:
    """Those of the processes that still run."""
    running = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                running.append(pid)
        except psutil.NoSuchProcess:
            continue
    return running


def regions() -> set[str]:
    """What lies in /dev/shm of any of our servers."""
    return {path.name for path in Path("/dev/shm").glob("tritium-serve-*")}


def orphaned_regions() -> set[str]:
    """Those of `regions` that no living stub uses."""
    used: set[str] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            used.update(process.cmdline())
    return regions() - used
