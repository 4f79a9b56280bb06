"""Tiny apps in the layout of a real repository: answers that a test can compute by hand.

`demo` has two releases. Its evidence is the length of the text plus the first byte of the
picture; label number `evidence % labels` gets half of the probability. `bad` is refused by the
stage that reads it, `crash` makes it fail, and `sleep<seconds>` makes it slow.

A refusal travels to the head as a tensor and becomes an error there: Triton 2.51 loses requests,
and sometimes deadlocks, when one branch of an ensemble fails while another still runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from tritium_client import contract
from tritium_client.contract import Modality

APP = "demo"
WORDS = "words"
"""A second app, which takes texts only."""
LABELS = {1: ("cat", "dog", "bird"), 2: ("bird", "cat", "dog", "fish")}
"""Release -> labels; the second release has other labels in another order."""
BOTH: tuple[Modality, ...] = ("text", "image")
TEXT: tuple[Modality, ...] = ("text",)
IMAGE: tuple[Modality, ...] = ("image",)
ENTRY_POINTS = (BOTH, TEXT, IMAGE)

Tensor = dict[str, Any]

READER = """
import time
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        data = pb.get_input_tensor_by_name(request, "{input}").as_numpy().reshape(-1)[0]
        if data.startswith(b"sleep"):
            time.sleep(float(data[5:]))
            data = b""
        if data == b"crash":
            raise RuntimeError("a bug in a servable")
        refused = ""
        if data == b"bad":
            refused = "tritium.invalid_input stage={stage} item=0: cannot be read,\\nsadly"
        feature = np.array([[len(data) if "{input}" == "text" else data[0]]], np.float32)
        error = np.array([[refused.encode()]], object)
        return pb.InferenceResponse(
            [pb.Tensor("{input}_features", feature), pb.Tensor("{input}_error", error)]
        )
"""

HEAD = """
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        evidence = 0
        for modality in {modalities}:
            refused = pb.get_input_tensor_by_name(request, modality + "_error").as_numpy()[0, 0]
            if refused:
                error = pb.TritonError(refused.decode(), pb.TritonError.INVALID_ARG)
                return pb.InferenceResponse(error=error)
            feature = pb.get_input_tensor_by_name(request, modality + "_features")
            evidence += int(feature.as_numpy()[0, 0])
        probabilities = np.full((1, {labels}), 0.5 / ({labels} - 1), np.float32)
        probabilities[0, evidence % {labels}] = 0.5
        return pb.InferenceResponse([pb.Tensor("probabilities", probabilities)])
"""

STAGES: dict[Modality, tuple[str, str]] = {
    "text": ("text_tokenizer", "demo_text_tokenizer_000000000001"),
    "image": ("image_decoder", "demo_image_decoder_000000000001"),
}


def expected_label(release: int, *, text: bytes = b"", first_byte: int = 0) -> str:
    """The label that `demo` answers with."""
    labels = LABELS[release]
    return labels[(len(text) + first_byte) % len(labels)]


def write_repository(repository: Path, *, texts_only: bool = False) -> Path:
    """Write components, both releases of `demo` with release 1 live, and the app `words`.

    Args:
        repository: Where.
        texts_only: Leave out pictures and release 2: six processes less for a server to start.
    """
    entry_points = (TEXT,) if texts_only else ENTRY_POINTS
    for modality, (stage, model) in STAGES.items():
        if (modality,) not in entry_points:
            continue
        code = READER.replace("{stage}", stage).replace("{input}", modality)
        write_model(repository, _python(model, [_bytes(modality)], _read(modality)), 1, code)
    for release, labels in LABELS.items():
        if texts_only and release > 1:
            continue
        for modalities in entry_points:
            head = _head(release, modalities)
            code = HEAD.replace("{modalities}", repr(modalities))
            code = code.replace("{labels}", str(len(labels)))
            inputs = [tensor for modality in modalities for tensor in _read(modality)]
            write_model(repository, _python(head, inputs, [_probabilities(labels)]), 1, code)
            write_graph(repository, release, modalities)
    for modalities in entry_points:
        write_alias(repository, 1, modalities)
    write_graph(repository, 1, TEXT, app=WORDS)
    write_alias(repository, 1, TEXT, app=WORDS)
    return repository


def write_alias(
    repository: Path,
    release: int,
    modalities: tuple[Modality, ...],
    *,
    app: str = APP,
    input_name: str | None = None,
    **parameters: str,
) -> str:
    """Point an app's alias to a release.

    Args:
        repository: Where.
        release: The release that it is to answer with.
        modalities: Which of the app's entry points.
        app: The app.
        input_name: Another name for the alias's inputs.
        **parameters: Config parameters that differ, without their `tritium.`.

    Returns:
        The alias's name.
    """
    name = contract.entry_point(app, "classify", modalities)
    config = _ensemble(name, app, release, modalities, parameters)
    config.version_policy.specific.versions.append(release)
    nested = contract.release_entry_point(app, "classify", modalities, release)
    step = config.ensemble_scheduling.step.add(model_name=nested, model_version=-1)
    for modality, tensor in zip(modalities, config.input, strict=True):
        tensor.name = input_name or modality
        step.input_map[modality] = tensor.name
    step.output_map["probabilities"] = "probabilities"
    write_model(repository, config, release, None)
    return name


def write_graph(
    repository: Path,
    release: int,
    modalities: tuple[Modality, ...],
    *,
    app: str = APP,
    **parameters: str,
) -> str:
    """Write the ensemble of one release; arguments and answer as for `write_alias`."""
    name = contract.release_entry_point(app, "classify", modalities, release)
    config = _ensemble(name, app, release, modalities, parameters)
    steps = config.ensemble_scheduling.step
    for modality in modalities:
        reader = steps.add(model_name=STAGES[modality][1], model_version=-1)
        reader.input_map[modality] = modality
        for tensor in _read(modality):
            reader.output_map[tensor["name"]] = tensor["name"]
    head = steps.add(model_name=_head(release, modalities), model_version=-1)
    for modality in modalities:
        for tensor in _read(modality):
            head.input_map[tensor["name"]] = tensor["name"]
    head.output_map["probabilities"] = "probabilities"
    write_model(repository, config, 1, None)
    return name


def _ensemble(
    name: str,
    app: str,
    release: int,
    modalities: tuple[Modality, ...],
    parameters: dict[str, str],
) -> pb.ModelConfig:
    config = pb.ModelConfig(name=name, platform="ensemble", max_batch_size=8)
    config.input.extend(pb.ModelInput(**_bytes(modality)) for modality in modalities)
    config.output.append(pb.ModelOutput(**_probabilities(LABELS[release])))
    values = contract.entry_point_parameters(
        app=app,
        release=release,
        task="classification",
        modalities=modalities,
        labels=LABELS[release],
        target="openvino",
        precision="fp32",
    )
    values.update({f"tritium.{key}": value for key, value in parameters.items()})
    for key, value in values.items():
        config.parameters[key].string_value = value
    return config


def _head(release: int, modalities: tuple[Modality, ...]) -> str:
    suffix = "" if len(modalities) == 2 else f"_{modalities[0]}"
    return f"demo_fusion_head{suffix}_00000000000{release}"


def _python(name: str, inputs: list[Tensor], outputs: list[Tensor]) -> pb.ModelConfig:
    config = pb.ModelConfig(name=name, backend="python", max_batch_size=8)
    config.input.extend(pb.ModelInput(**tensor) for tensor in inputs)
    config.output.extend(pb.ModelOutput(**tensor) for tensor in outputs)
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    return config


def _read(modality: Modality) -> list[Tensor]:
    """What a reader answers: a feature, and why it refused its input (empty: it did not)."""
    return [_tensor(f"{modality}_features", [1]), _bytes(f"{modality}_error")]


def _bytes(name: str) -> Tensor:
    return {"name": name, "data_type": pb.TYPE_STRING, "dims": [1]}


def _tensor(name: str, dims: list[int]) -> Tensor:
    return {"name": name, "data_type": pb.TYPE_FP32, "dims": dims}


def _probabilities(labels: tuple[str, ...]) -> Tensor:
    return _tensor("probabilities", [len(labels)])


def write_model(repository: Path, config: pb.ModelConfig, version: int, code: str | None) -> None:
    """Write one model; `code` is the model.py of a Python model."""
    folder = repository / config.name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "config.pbtxt").write_text(text_format.MessageToString(config))
    if code is not None:
        (folder / "model.py").write_text(code)
