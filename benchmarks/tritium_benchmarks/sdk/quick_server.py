"""A real tritonserver that answers as fast as it can: what is measured is then the client.

Its app, `quick`, has no networks in it: each entry point is one Python model that answers with
constant probabilities. A text `sleep<seconds>` makes it slow; `Sleeps` makes every batch take its
time without any work, so that several such servers on one machine do not disturb each other.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from tritium_client import contract
from tritium_client.contract import Modality
from tritium_deploy.control import ModelControl
from tritium_deploy.installation import find_installation
from tritium_deploy.ports import Ports
from tritium_deploy.triton import Triton, TritonOptions

APP = "quick"
LABELS = tuple(f"label {number}" for number in range(10))
"""As many as the demo app has, or nearly."""
ENTRY_POINTS: tuple[tuple[Modality, ...], ...] = (("text", "image"), ("text",))
LOAD_TIMEOUT_S = 60.0

_MODEL = f"""
import json
import time
import numpy as np
import triton_python_backend_utils as pb

PROBABILITIES = np.array([[0.91] + [0.01] * {len(LABELS) - 1}], np.float32)


class TritonPythonModel:
    def initialize(self, args):
        known = json.loads(args["model_config"]).get("parameters", {{}})
        self.base_s, self.each_s = (
            float(known.get(name, {{}}).get("string_value", "0")) for name in ("base_s", "each_s")
        )

    def execute(self, requests):
        if self.base_s or self.each_s:
            time.sleep(self.base_s + len(requests) * self.each_s)
        return [self.answer(request) for request in requests]

    def answer(self, request):
        text = pb.get_input_tensor_by_name(request, "text").as_numpy()[0, 0]
        if text.startswith(b"sleep"):
            time.sleep(float(text[5:]))
        return pb.InferenceResponse([pb.Tensor("{contract.PROBABILITIES}", PROBABILITIES)])
"""


@dataclass(frozen=True)
class Sleeps:
    """How long a batch takes: `base_s`, and `each_s` for each of its requests."""

    base_s: float
    each_s: float
    max_batch: int


@dataclass(frozen=True)
class QuickServer:
    """A running server with the app `quick`."""

    url: str
    """host:port of gRPC."""
    control: ModelControl
    _triton: Triton

    def kill(self) -> None:
        """End it without a word, as a machine that loses its power does."""
        os.kill(self._triton.pid, signal.SIGKILL)
        self._triton.exited.wait()


@contextmanager
def quick_server(
    *, ports: Ports | None = None, max_queue: int = 0, sleeps: Sleeps | None = None
) -> Iterator[QuickServer]:
    """Serve `quick` on loopback until the block ends.

    Args:
        ports: Where; None for free ones.
        max_queue: Requests that may wait for each entry point; 0 for any number.
        sleeps: How long batches take; None for as short as can be.
    """
    ports = ports or Ports.free()
    with tempfile.TemporaryDirectory(prefix="tritium-quick-") as folder:
        models = write_repository(Path(folder), max_queue, sleeps)
        triton = Triton(find_installation(), TritonOptions(Path(folder), ports, apps=(APP,)))
        control = ModelControl(f"127.0.0.1:{ports.grpc}")
        try:
            triton.start(control)
            for model in models:
                control.load(model, LOAD_TIMEOUT_S)
            yield QuickServer(f"127.0.0.1:{ports.grpc}", control, triton)
        finally:
            control.close()
            triton.stop(keep_log=False)


def write_repository(folder: Path, max_queue: int = 0, sleeps: Sleeps | None = None) -> list[str]:
    """Write the models of `quick`.

    Args:
        folder: Where.
        max_queue: As for `quick_server`.
        sleeps: Likewise.

    Returns:
        Their names, in an order in which they can be loaded.
    """
    names = []
    for modalities in ENTRY_POINTS:
        answers = _config(contract.entry_point(APP, "classify", modalities), modalities)
        answers.backend = "python"
        answers.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
        answers.dynamic_batching.default_queue_policy.max_queue_size = max_queue
        if sleeps is not None:
            answers.max_batch_size = sleeps.max_batch
            answers.parameters["base_s"].string_value = str(sleeps.base_s)
            answers.parameters["each_s"].string_value = str(sleeps.each_s)
        _write(folder, answers, _MODEL)
        # Clients read a release's labels here.
        release = _config(contract.release_entry_point(APP, "classify", modalities, 1), modalities)
        release.platform = "ensemble"
        release.max_batch_size = answers.max_batch_size
        step = release.ensemble_scheduling.step.add(model_name=answers.name, model_version=-1)
        for modality in modalities:
            step.input_map[modality] = modality
        step.output_map[contract.PROBABILITIES] = contract.PROBABILITIES
        _write(folder, release)
        names += [answers.name, release.name]
    return names


def _config(name: str, modalities: tuple[Modality, ...]) -> pb.ModelConfig:
    config = pb.ModelConfig(name=name, max_batch_size=64)
    for modality in modalities:
        config.input.add(name=modality, data_type=pb.TYPE_STRING, dims=[1])
    config.output.add(name=contract.PROBABILITIES, data_type=pb.TYPE_FP32, dims=[len(LABELS)])
    values = contract.entry_point_parameters(
        app=APP,
        release=1,
        task="classification",
        modalities=modalities,
        labels=LABELS,
        target="none",
        precision="fp32",
    )
    for key, value in values.items():
        config.parameters[key].string_value = value
    return config


def _write(folder: Path, config: pb.ModelConfig, code: str | None = None) -> None:
    version = folder / config.name / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(text_format.MessageToString(config), "utf-8")
    if code is not None:
        (version / "model.py").write_text(code, "utf-8")
