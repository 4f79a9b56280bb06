"""An app `many` that embeds, tags and scores: answers that a test can compute by hand.

It embeds a text as [its length, 1] and a picture as [its first byte, 2]; tags words that begin
with a capital as persons; scores with the text's length, and with twice that when there is a
picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from tests.support.demo_repository import write_model
from tritium_client import contract
from tritium_client.contract import Modality, Verb

APP = "many"
TAGS = ("O", "B-PER", "I-PER")
PRICES = ("price", "shipping")
ENTRY_POINTS: tuple[tuple[Verb, tuple[Modality, ...]], ...] = (
    ("tag", ("text", "image")),
    ("tag", ("text",)),
    ("score", ("text", "image")),
    ("score", ("text",)),
    ("embed", ("text",)),
    ("embed", ("image",)),
)
OUTPUTS: dict[str, tuple[int, list[int]]] = {
    "embedding": (pb.TYPE_FP32, [2]),
    "scores": (pb.TYPE_FP32, [2]),
    "probabilities": (pb.TYPE_FP32, [-1, len(TAGS)]),
    "offsets": (pb.TYPE_INT64, [-1, 2]),
}
LABELS: dict[Verb, tuple[str, ...]] = {"tag": TAGS, "score": PRICES, "embed": ()}

CODE = """
import re
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        given = {}
        for name in ("text", "image"):
            tensor = pb.get_input_tensor_by_name(request, name)
            if tensor is not None:
                given[name] = tensor.as_numpy().reshape(-1)[0]
        outputs = getattr(self, "{verb}")(given.get("text"), given.get("image"))
        return pb.InferenceResponse([pb.Tensor(n, v[None]) for n, v in outputs.items()])

    def embed(self, text, image):
        pair = (len(text), 1) if image is None else (image[0], 2)
        return {"embedding": np.array(pair, np.float32)}

    def score(self, text, image):
        value = len(text) * (1 if image is None else 2)
        return {"scores": np.array([value, 4.5], np.float32)}

    def tag(self, text, image):
        words = list(re.finditer(r"\\S+", text.decode()))
        rows, before = [], False
        for word in words:
            person = word[0][0].isupper()
            rows.append([0.1, 0.2, 0.7] if person and before else
                        [0.1, 0.8, 0.1] if person else [0.9, 0.1, 0.0])
            before = person
        offsets = [word.span() for word in words]
        return {
            "probabilities": np.array(rows, np.float32).reshape(-1, 3),
            "offsets": np.array(offsets, np.int64).reshape(-1, 2),
        }
"""


def write_other_verbs(repository: Path) -> None:
    """Add the app to a repository."""
    for verb, modalities in ENTRY_POINTS:
        release = contract.release_entry_point(APP, verb, modalities, 1)
        worker = f"{APP}_{verb}_{'_'.join(modalities)}_000000000001"
        config = _config(worker, verb, modalities)
        config.backend = "python"
        config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
        write_model(repository, config, 1, CODE.replace("{verb}", verb))
        for name, step in ((release, worker), (_alias(verb, modalities), release)):
            write_model(repository, _ensemble(name, step, verb, modalities), 1, None)


def _alias(verb: Verb, modalities: tuple[Modality, ...]) -> str:
    return contract.entry_point(APP, verb, modalities)


def _config(name: str, verb: Verb, modalities: tuple[Modality, ...]) -> Any:
    config = pb.ModelConfig(name=name, max_batch_size=8)
    for modality in modalities:
        config.input.add(name=modality, data_type=pb.TYPE_STRING, dims=[1])
    for output in contract.OUTPUTS[verb]:
        data_type, dims = OUTPUTS[output]
        config.output.add(name=output, data_type=data_type, dims=dims)
    return config


def _ensemble(name: str, step_model: str, verb: Verb, modalities: tuple[Modality, ...]) -> Any:
    config = _config(name, verb, modalities)
    config.platform = "ensemble"
    step = config.ensemble_scheduling.step.add(model_name=step_model, model_version=-1)
    for modality in modalities:
        step.input_map[modality] = modality
    for output in contract.OUTPUTS[verb]:
        step.output_map[output] = output
    values = contract.entry_point_parameters(
        app=APP,
        release=1,
        task=verb,
        modalities=modalities,
        labels=LABELS[verb],
        target="openvino",
        precision="fp32",
    )
    for key, value in values.items():
        config.parameters[key].string_value = value
    return config
