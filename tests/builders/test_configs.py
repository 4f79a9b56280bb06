"""Generated configs: one golden file per kind, and rules that hold for all of them."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from tritium_builders.bundle_schema import BundleManifest
from tritium_builders.components import ENCODED_BY
from tritium_builders.configs import (
    alias_ensemble,
    component_config,
    component_graphs,
    encoders_config,
    engine_spec,
    release_ensemble,
    to_pbtxt,
)
from tritium_builders.tensorrt.configs import plan_config
from tritium_builders.tensorrt.options import TensorRTOptions
from tritium_builders.tensorrt.profiles import component_profiles
from tritium_client import contract
from tritium_client.contract import Role

GOLDEN = Path(__file__).parents[1] / "golden"


def manifest(**changes: object) -> BundleManifest:
    fields = {
        "app": "demo",
        "labels": ["cat", "dog"],
        "entry_points": [["text", "image"], ["text"], ["image"]],
        "text": {"max_length": 64},
        "image": {"size": 224},
        "text_encoder": {"architecture": "onnx", "features": "pooled", "shape": [384]},
        "image_encoder": {"architecture": "onnx", "features": "pooled", "shape": [1280]},
        "fusion_head": {"architecture": "onnx", "strategy": "concat"},
        "files": {},
        **changes,
    }
    return BundleManifest.model_validate(fields)


SEQUENCE = manifest(
    text_encoder={"architecture": "onnx", "features": "sequence", "shape": [-1, 48]},
    image_encoder={"architecture": "onnx", "features": "sequence", "shape": [49, 128]},
    fusion_head={"architecture": "onnx", "strategy": "attention", "takes_mask": True},
)
COMPONENTS = {role: f"demo_{role}_0123456789ab" for role in component_graphs(manifest())}


def named(config: pb.ModelConfig, name: str) -> pb.ModelConfig:
    config.name = name
    return config


def configs() -> dict[str, pb.ModelConfig]:
    """One config of every kind."""
    found = {}
    for prefix, source in (("pooled", manifest()), ("sequence", SEQUENCE)):
        for role, graph in component_graphs(source).items():
            if role == "text_tokenizer":
                spec = source.text.servable_spec()
            elif role == "image_decoder":
                spec = source.image.servable_spec()
            else:
                spec = engine_spec(graph, "openvino", "model.xml")
            config = component_config(graph, spec)
            found[f"{prefix}_{role}"] = named(config, COMPONENTS[role])
    for given in (["text", "image"], ["text"], ["image"]):
        suffix = "_".join(given)
        arguments = ("openvino", "fp32")
        found[f"release_{suffix}"] = release_ensemble(manifest(), 3, given, COMPONENTS, *arguments)  # type: ignore[arg-type]
        found[f"alias_{suffix}"] = alias_ensemble(found[f"release_{suffix}"], 3)
    rollout = contract.Rollout(4, canary_percent=5, shadow_percent=0.5, salt="demo 4")
    found["alias_rollout"] = alias_ensemble(found["release_text"], 3, rollout)
    found["release_sequence"] = release_ensemble(
        SEQUENCE, 3, ["text", "image"], COMPONENTS, "onnxruntime", "fp32"
    )
    return found | encoders_configs() | tensorrt_configs()


def encoders_configs() -> dict[str, pb.ModelConfig]:
    """On a CPU: one component reads and encodes, and an entry point is that and a head."""
    steps: dict[Role, dict[str, object]] = {
        role: {"model": name, "servable": "Engine", "spec": {"stage": role}}
        for role, name in COMPONENTS.items()
        if role in ENCODED_BY
    }
    name = "demo_encoders_0123456789ab"
    found = {"encoders": named(encoders_config(manifest(), steps), name)}
    entry_points: list[list[contract.Modality]] = [["text", "image"], ["text"]]
    components: dict[Role, str] = {**COMPONENTS, "encoders": name}
    for given in entry_points:
        found[f"release_encoders_{'_'.join(given)}"] = release_ensemble(
            manifest(), 3, given, components, "openvino", "fp32"
        )
    return found


def tensorrt_configs() -> dict[str, pb.ModelConfig]:
    """What differs for TensorRT: the plans' components, and a tokenizer that pads to buckets."""
    found = {}
    options = TensorRTOptions(buckets=(16, 64), max_batch=4)
    for prefix, source in (("tensorrt_pooled", manifest()), ("tensorrt_sequence", SEQUENCE)):
        for role, graph in component_graphs(source).items():
            if role in ("text_tokenizer", "image_decoder"):
                continue
            profiles = component_profiles(graph, (16, 64), options.max_batch)
            config = plan_config(graph, profiles, options)
            found[f"{prefix}_{role}"] = named(config, COMPONENTS[role])
    graphs = component_graphs(manifest())
    spec = {**manifest().text.servable_spec(), "buckets": [16, 64]}
    tokenizer = component_config(graphs["text_tokenizer"], spec, options.max_batch)
    found["tensorrt_text_tokenizer"] = named(tokenizer, COMPONENTS["text_tokenizer"])
    fast = TensorRTOptions(max_batch=2, cuda_graphs=True, output_copy_stream=True, instances=2)
    encoder = graphs["text_encoder"]
    profiles = component_profiles(encoder, (16, 64), fast.max_batch)
    found["tensorrt_cuda_graphs"] = named(
        plan_config(encoder, profiles, fast), COMPONENTS["text_encoder"]
    )
    found["tensorrt_release"] = release_ensemble(
        manifest(), 3, ["text", "image"], COMPONENTS, "tensorrt", "fp16", options.max_batch
    )
    return found


@pytest.mark.parametrize("name", sorted(configs()))
def test_config_equals_its_golden_file(name: str) -> None:
    """Write the files anew with TRITIUM_UPDATE_GOLDEN=1, and read the difference."""
    path = GOLDEN / f"{name}.pbtxt"
    text = to_pbtxt(configs()[name])
    if os.environ.get("TRITIUM_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_there_is_no_golden_file_without_a_config() -> None:
    assert {path.stem for path in GOLDEN.glob("*.pbtxt")} == set(configs())


@pytest.mark.parametrize("name", sorted(configs()))
def test_config_parses_back(name: str) -> None:
    config = configs()[name]
    assert text_format.Parse(to_pbtxt(config), pb.ModelConfig()) == config


@pytest.mark.parametrize("given", ["text_image", "text", "image"])
def test_tensors_agree_across_steps(given: str) -> None:
    ensemble = configs()[f"release_{given}"]
    known = {tensor.name: tensor.data_type for tensor in ensemble.input}
    by_model = {config.name: config for key, config in configs().items() if "pooled" in key}
    for step in ensemble.ensemble_scheduling.step:
        model = by_model[step.model_name]
        optional = {tensor.name for tensor in model.input if tensor.optional}
        assert {tensor.name for tensor in model.input} - set(step.input_map) <= optional
        types = {tensor.name: tensor.data_type for tensor in (*model.input, *model.output)}
        for name, source in step.input_map.items():
            assert known[source] == types[name]
        known.update({target: types[name] for name, target in step.output_map.items()})
        assert step.model_version == 1
    assert contract.PROBABILITIES in known


@pytest.mark.parametrize("given", [["text", "image"], ["text"]])
def test_an_entry_point_gives_the_encoders_what_the_caller_gave(given: list[str]) -> None:
    step, head = configs()[f"release_encoders_{'_'.join(given)}"].ensemble_scheduling.step
    encoders = configs()["encoders"]
    assert step.model_name == encoders.name
    assert set(step.input_map) == set(given)
    assert all(tensor.optional for tensor in encoders.input)
    assert set(step.output_map) == set(head.input_map) == {f"{name}_features" for name in given}


@pytest.mark.parametrize(("given", "other"), [("text", "image"), ("image", "text")])
def test_an_absent_modalitys_encoder_is_not_in_the_graph(given: str, other: str) -> None:
    steps = configs()[f"release_{given}"].ensemble_scheduling.step
    assert not [step for step in steps if f"{other}_" in step.model_name]


def test_no_two_steps_of_a_request_are_in_flight_at_once() -> None:
    """Each step needs something that only the step before it gives."""
    for name in ("release_text_image", "release_text", "release_image", "release_sequence"):
        steps = configs()[name].ensemble_scheduling.step
        for before, step in pairwise(steps):
            assert set(before.output_map.values()) & set(step.input_map.values())


def test_an_entry_point_says_what_clients_need() -> None:
    parameters = configs()["alias_text"].parameters
    assert json.loads(parameters[contract.PARAM_LABELS].string_value) == ["cat", "dog"]
    assert parameters[contract.PARAM_RELEASE].string_value == "3"
    assert parameters[contract.PARAM_MODALITIES].string_value == "text"
    assert parameters[contract.PARAM_WIRE_VERSION].string_value == contract.WIRE_VERSION
    assert list(configs()["alias_text"].version_policy.specific.versions) == [3]
