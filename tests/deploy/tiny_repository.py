"""A model repository in the publisher's layout, made by hand in milliseconds.

It keeps the tests of serving independent of the builders' engines: the components are the plain
arithmetic of tiny_servable.py, the layout is DESIGN.md sections 5 and 6.
"""

from __future__ import annotations

import hashlib
import py_compile
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
from google.protobuf import text_format
from tests.deploy import tiny_servable
from tritonclient.grpc import model_config_pb2 as pb

from tritium_builders.aliases import point_aliases
from tritium_builders.release import (
    ParityReport,
    PublishedComponent,
    PublishedFile,
    Release,
    Tolerance,
    release_folder,
)
from tritium_builders.samples import Sample, modalities_key, sample_files
from tritium_client import contract
from tritium_client.contract import Modality, Role

LABELS = ["cat", "dog", "bird"]
ENTRY_POINTS: list[tuple[Modality, ...]] = [("text", "image"), ("text",), ("image",)]
STEPS: Mapping[tuple[Modality, ...], tuple[Role, ...]] = {
    ("text", "image"): ("text_encoder", "image_encoder", "fusion_head"),
    ("text",): ("text_encoder", "fusion_head_text"),
    ("image",): ("image_encoder", "fusion_head_image"),
}
TENSORS: Mapping[Role, tuple[tuple[str, ...], str]] = {
    "text_encoder": (("text",), "text_features"),
    "image_encoder": (("image",), "image_features"),
    "fusion_head": (("text_features", "image_features"), "probabilities"),
    "fusion_head_text": (("text_features",), "probabilities"),
    "fusion_head_image": (("image_features",), "probabilities"),
}
SHAPES = {
    "text": (pb.TYPE_STRING, 1),
    "image": (pb.TYPE_STRING, 1),
    "text_features": (pb.TYPE_FP32, 2),
    "image_features": (pb.TYPE_FP32, 2),
    "probabilities": (pb.TYPE_FP32, len(LABELS)),
}


@dataclass(frozen=True)
class TinyApp:
    """What to publish."""

    app: str = "tiny"
    number: int = 1
    bias: float = 0.5
    samples: int = 4
    instances: int = 1
    """Of every component."""
    parameters: Mapping[Role, Mapping[str, str]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    """More config parameters of one component; see tiny_servable.py for `fault`."""
    wrong_sample: int | None = None
    """Index of the golden sample whose expected answer is made wrong."""
    wire_version: str = contract.WIRE_VERSION
    labels: tuple[str, ...] = tuple(LABELS)
    labelled: int = 0
    """How many validation samples the release has; each is labelled with what it answers, but for
    every tenth one."""
    space: str | None = None
    """Of embeddings."""
    head_parameters: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """More config parameters of every head."""


def publish(repository: Path, tiny: TinyApp | None = None, *, live: bool = True) -> Release:
    """Write one release and, if it is to be live, point the app's entry points to it."""
    tiny = tiny or TinyApp()
    components = {role: _publish_component(repository, tiny, role) for role in TENSORS}
    for modalities in ENTRY_POINTS:
        _write_release_ensemble(repository, tiny, modalities, components)
        name = contract.entry_point(tiny.app, "classify", modalities)
        (repository / name / str(tiny.number)).mkdir(parents=True, exist_ok=True)
    release = _write_release(repository, tiny, components)
    if live:
        point_aliases(repository, release)
    return release


def publish_candidate(repository: Path, tiny: TinyApp | None = None) -> Release:
    """Write a release that waits for its rollout: by default a second one with other heads."""
    return publish(repository, tiny or TinyApp(number=2, bias=0.6), live=False)


def golden(tiny: TinyApp) -> list[Sample]:
    """The golden samples with the answers that the server has to give."""
    samples = []
    for index in range(tiny.samples):
        text, image = f"sample number {index}", b"picture" * (index + 1)
        text_part = tiny_servable.text_features(text.encode())
        image_part = tiny_servable.image_features(image)
        expected = {}
        for modalities in ENTRY_POINTS:
            answer = tiny_servable.probabilities(
                text_part if "text" in modalities else None,
                image_part if "image" in modalities else None,
                tiny.bias,
            )
            expected[modalities_key(modalities)] = tuple(float(value) for value in answer)
        if index == tiny.wrong_sample:
            expected = {key: values[::-1] for key, values in expected.items()}
        answer_label = LABELS[int(np.argmax(expected["text,image"]))]
        samples.append(
            Sample(f"golden-{index}", text, image, answer=answer_label, expected=expected)
        )
    return samples


def validation(tiny: TinyApp) -> list[Sample]:
    """Labelled samples, of which an app with the usual bias gets nine in ten right."""
    samples = []
    for index in range(tiny.labelled):
        text, image = f"validation {index}", b"scene" * (index + 1)
        answer = tiny_servable.probabilities(
            tiny_servable.text_features(text.encode()), tiny_servable.image_features(image), 0.5
        )
        right = (int(np.argmax(answer)) + (index % 10 == 0)) % len(LABELS)
        samples.append(Sample(f"validation-{index}", text, image, label=LABELS[right]))
    return samples


def _publish_component(repository: Path, tiny: TinyApp, role: Role) -> PublishedComponent:
    config = pb.ModelConfig(backend="python", max_batch_size=8)
    inputs, output = TENSORS[role]
    for name in inputs:
        data_type, size = SHAPES[name]
        config.input.add(name=name, data_type=data_type, dims=[size])
    config.output.add(name=output, data_type=SHAPES[output][0], dims=[SHAPES[output][1]])
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=tiny.instances)
    plain = role.removesuffix("_text").removesuffix("_image")
    parameters = {"role": plain}
    if plain == "fusion_head":  # alone: another bias leaves the encoders what they are
        parameters |= {"bias": str(tiny.bias), **tiny.head_parameters}
    for key, value in (parameters | dict(tiny.parameters.get(role, {}))).items():
        config.parameters[key].string_value = value
    source = Path(tiny_servable.__file__).read_bytes()
    identity = hashlib.sha256(source + role.encode() + config.SerializeToString(deterministic=True))
    config.name = contract.component(tiny.app, role, identity.hexdigest())

    folder = repository / config.name
    if not folder.exists():
        (folder / "1").mkdir(parents=True)
        (folder / "1" / "model.py").write_bytes(source)
        tag = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
        py_compile.compile(
            str(folder / "1" / "model.py"),
            cfile=str(folder / "1" / "__pycache__" / f"model.{tag}.pyc"),
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            doraise=True,
        )
        (folder / "config.pbtxt").write_text(text_format.MessageToString(config))
    files = {
        str(path.relative_to(folder)): PublishedFile(
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(), bytes=path.stat().st_size
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return PublishedComponent(model=config.name, files=files)


def _ensemble(name: str, modalities: tuple[Modality, ...]) -> pb.ModelConfig:
    config = pb.ModelConfig(name=name, platform="ensemble", max_batch_size=8)
    for modality in modalities:
        config.input.add(name=modality, data_type=pb.TYPE_STRING, dims=[1])
    config.output.add(name="probabilities", data_type=pb.TYPE_FP32, dims=[len(LABELS)])
    return config


def _write_release_ensemble(
    repository: Path,
    tiny: TinyApp,
    modalities: tuple[Modality, ...],
    components: Mapping[Role, PublishedComponent],
) -> None:
    name = contract.release_entry_point(tiny.app, "classify", modalities, tiny.number)
    config = _ensemble(name, modalities)
    for role in STEPS[modalities]:
        step = config.ensemble_scheduling.step.add(
            model_name=components[role].model, model_version=-1
        )
        inputs, output = TENSORS[role]
        for tensor in inputs:
            step.input_map[tensor] = tensor
        step.output_map[output] = output
    parameters = contract.entry_point_parameters(
        app=tiny.app,
        release=tiny.number,
        task="classification",
        modalities=modalities,
        labels=tiny.labels,
        target="openvino",
        precision="fp32",
    )
    parameters[contract.PARAM_WIRE_VERSION] = tiny.wire_version
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    (repository / name / "1").mkdir(parents=True, exist_ok=True)
    (repository / name / "config.pbtxt").write_text(text_format.MessageToString(config))


def tiny_release(
    tiny: TinyApp | None = None, components: Mapping[Role, PublishedComponent] | None = None
) -> Release:
    """What release.json says of a tiny app."""
    tiny = tiny or TinyApp()
    tolerance = Tolerance(features_cosine=0.9999, features_relative=1e-3, probabilities=1e-4)
    return Release(
        app=tiny.app,
        number=tiny.number,
        task="classification",
        labels=list(tiny.labels),
        space=tiny.space,
        entry_points=[list(modalities) for modalities in ENTRY_POINTS],
        target="openvino",
        precision="fp32",
        components=dict(components or {}),
        bundle_hash="0" * 64,
        tools={},
        parity=ParityReport(tolerance=tolerance, stages=[]),
        command="tiny_repository.publish()",
        created="2026-01-01T00:00:00+00:00",
    )


def _write_release(
    repository: Path, tiny: TinyApp, components: Mapping[Role, PublishedComponent]
) -> Release:
    release = tiny_release(tiny, components)
    folder = release_folder(repository, tiny.app, tiny.number)
    folder.mkdir(parents=True, exist_ok=True)
    samples = {
        **sample_files("golden", golden(tiny)),
        **sample_files("validation", validation(tiny)),
    }
    for path, content in samples.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)
    (folder / "release.json").write_text(release.model_dump_json(indent=2))
    return release
