"""Triton model configurations, as protobufs.

Components come first, then the ensembles that join them. A component's config is written
without a name: the name carries the hash of the content, and the config is part of that.

Source: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from tritium_builders.bundle_schema import FEATURE_TENSORS, BundleManifest, head_role
from tritium_builders.release import Precision, Target
from tritium_builders.tasks import answer_tensor
from tritium_client import contract
from tritium_client.contract import Modality, Role

MAX_BATCH = 32
"""Requests that one execution of a component may answer."""
ENCODERS_BATCH = 8
"""Requests that one engine call of `encoders` answers: twice as many took as long for each."""
MAX_QUEUE = 256
"""Requests that wait for a component; more of them are refused. At the rate of the demo app on two
cores the last one of them has its answer after four seconds."""
MAX_WAIT_S = 60
"""Seconds that a request may wait for a component, whatever its caller's timeout."""
MAX_INSTANCES = 8
"""Of `encoders`: each holds the model once."""
CALL_TOKENS = {"fp32": 16, "bf16": 48}
"""What a call of a text encoder costs beside its tokens, in tokens of the demo app's: reading the
weights, and for OpenVINO another shape than the last one's. With units for bf16 a token costs a
third."""
FEW_WEIGHTS = 10_000_000
"""Parameters of an image encoder that takes one picture at a time, see `takes_one_by_one` of the
engine. With 2 to 6 million that took 0.8 to 1 of a batch's time for each picture, with 22 to 28
million 0.92 to 1.1, with 86 million 1.1 to 1.4 (MobileNetV2, ViTs, ResNet-50, ConvNeXt-T on one
core, batches of 4 and 5 or of 7 and 8 in turns)."""

_CHAIN: tuple[Role, ...] = (
    "text_tokenizer",
    "text_encoder",
    "image_decoder",
    "image_encoder",
)
"""The steps before the head, one after the other: no request ever has two steps in flight.

This Triton leaks a request, and can freeze the whole server, when one step of an ensemble fails
(a refused input, a dead stub) while another of the same request is in flight. The image's decoder
therefore waits for the text's features. See docs/decisions/steps-come-one-after-the-other.md.
"""

_TYPES = {
    contract.TEXT: pb.TYPE_STRING,
    contract.IMAGE: pb.TYPE_STRING,
    contract.INPUT_IDS: pb.TYPE_INT64,
    contract.ATTENTION_MASK: pb.TYPE_INT64,
    contract.WORD_STARTS: pb.TYPE_INT64,
    contract.OFFSETS: pb.TYPE_INT64,
    contract.PIXELS: pb.TYPE_UINT8,
}
"""Everything else is TYPE_FP32."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor between two steps, for one item."""

    name: str
    dims: tuple[int, ...]
    ragged: bool = False
    """Its first axis is the text's length, in tokens or in words: it differs between requests."""
    pad: int = 0

    @property
    def data_type(self) -> int:
        """Triton's DataType."""
        return int(_TYPES.get(self.name, pb.TYPE_FP32))


@dataclass(frozen=True)
class ComponentGraph:
    """What one component takes and gives."""

    role: Role
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    optional: tuple[TensorSpec, ...] = ()
    """What may be left out: a modality; or a tensor that is not read, whose giver comes first."""


def component_graphs(manifest: BundleManifest) -> dict[Role, ComponentGraph]:
    """Describe every component that a bundle's release consists of."""
    text = TensorSpec(contract.TEXT, (1,))
    image = TensorSpec(contract.IMAGE, (1,))
    ids = TensorSpec(contract.INPUT_IDS, (-1,), ragged=True, pad=manifest.text.pad_id)
    mask = TensorSpec(contract.ATTENTION_MASK, (-1,), ragged=True)
    pixels = TensorSpec(contract.PIXELS, (manifest.image.height, manifest.image.width, 3))
    text_kind, image_kind = manifest.text_encoder.features, manifest.image_encoder.features
    text_features = TensorSpec(
        FEATURE_TENSORS["text", text_kind],
        tuple(manifest.text_encoder.shape),
        ragged=text_kind != "pooled",
    )
    image_features = TensorSpec(
        FEATURE_TENSORS["image", image_kind], tuple(manifest.image_encoder.shape)
    )
    words = _word_tensors(manifest)
    graphs = [
        ComponentGraph("text_tokenizer", (text,), (ids, mask, *words)),
        ComponentGraph("image_decoder", (image,), (pixels,), optional=(text_features,)),
        ComponentGraph("text_encoder", (ids, mask, *words[:1]), (text_features,)),
        ComponentGraph("image_encoder", (pixels,), (image_features,)),
    ]
    for given in manifest.entry_points:
        inputs = [text_features] if "text" in given else []
        inputs += [image_features] if "image" in given else []
        if "text" in given and manifest.fusion_head.takes_mask:
            inputs.append(words[0] if words else mask)
        graphs.append(ComponentGraph(head_role(given), tuple(inputs), (_answer(manifest),)))
    return {graph.role: graph for graph in graphs}


def _word_tensors(manifest: BundleManifest) -> tuple[TensorSpec, ...]:
    """What says where the words of a text are that is tagged: each one's first token, its place."""
    if manifest.task != "tagging":
        return ()
    starts = TensorSpec(contract.WORD_STARTS, (-1,), ragged=True, pad=-1)
    return starts, TensorSpec(contract.OFFSETS, (-1, 2), ragged=True)


def _answer(manifest: BundleManifest) -> TensorSpec:
    """What a head answers with."""
    name = answer_tensor(manifest.task)
    if manifest.task == "tagging":
        return TensorSpec(name, (-1, len(manifest.labels)), ragged=True)
    return TensorSpec(name, (manifest.embedding_size or len(manifest.labels),))


def engine_spec(
    graph: ComponentGraph,
    target: Target,
    file: str,
    *,
    bf16: bool = False,
    one_by_one: bool = False,
) -> dict[str, Any]:
    """The specification that the engine servable takes.

    Args:
        graph: Its tensors.
        target: A CPU target.
        file: What it opens.
        bf16: Whether OpenVINO may compute in bfloat16.
        one_by_one: Whether it has few weights, and takes one row at a time.
    """
    return {
        **({"bf16": True} if bf16 else {}),
        **({"one_by_one": True} if one_by_one else {}),
        "stage": graph.role,
        "runtime": target,
        "file": file,
        "threads": 0,
        "streams": 1,
        "max_batch": MAX_BATCH,
        "call_tokens": CALL_TOKENS["bf16" if bf16 else "fp32"],
        "inputs": [
            {"name": tensor.name, "ragged": tensor.ragged, "pad": tensor.pad}
            for tensor in graph.inputs
        ],
        "outputs": [_output_spec(graph, tensor) for tensor in graph.outputs],
    }


def _output_spec(graph: ComponentGraph, tensor: TensorSpec) -> dict[str, Any]:
    spec: dict[str, Any] = {"name": tensor.name, "ragged": tensor.ragged}
    by_words = any(given.name == contract.WORD_STARTS for given in graph.inputs)
    return {**spec, "ragged_as": contract.WORD_STARTS} if tensor.ragged and by_words else spec


def component_config(
    graph: ComponentGraph, spec: Mapping[str, Any], max_batch: int = MAX_BATCH
) -> pb.ModelConfig:
    """Configure a Python-backend component; the name is set when its content is known.

    Args:
        graph: Its tensors.
        spec: What its servable takes, written into the parameter `spec`.
        max_batch: Requests that one execution may answer.
    """
    config = pb.ModelConfig(backend="python", max_batch_size=max_batch)
    for tensor in (*graph.inputs, *graph.optional):
        config.input.append(
            pb.ModelInput(
                name=tensor.name,
                data_type=tensor.data_type,
                dims=tensor.dims,
                allow_ragged_batch=tensor.ragged,
                optional=tensor in graph.optional,
            )
        )
    for tensor in graph.outputs:
        config.output.append(_output(tensor))
    let_requests_queue(config, graph.role)
    config.instance_group.append(
        pb.ModelInstanceGroup(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    )
    _set_parameters(config, {"spec": json.dumps(spec, sort_keys=True)})
    return config


def let_requests_queue(config: pb.ModelConfig, role: Role | None = None) -> None:
    """Let requests share batches, and bound how many of them wait, and for how long.

    No queue delay: while one batch is computed the next one gathers by itself. What finds the queue
    full is refused at once with UNAVAILABLE, which a caller may try again; what a caller's own
    `timeout` overtakes there is not computed.

    A head's queue has no bound: what reaches it has waited already, and this Triton may leave a
    bounded queue waiting beside an idle instance. See docs/decisions/full-queues.md.

    Args:
        config: The component's.
        role: Its role; None for what is no component of a release.
    """
    if role is not None and role.startswith("fusion_head"):
        config.dynamic_batching.SetInParent()
        return
    policy = config.dynamic_batching.default_queue_policy
    policy.max_queue_size = MAX_QUEUE
    policy.allow_timeout_override = True
    # A caller's timeout counts only where it is below this (core/src/priority_queue.cc).
    policy.default_timeout_microseconds = MAX_WAIT_S * 1_000_000


def share_cores_out(cores: int) -> tuple[int, int]:
    """How `encoders` runs on so many cores: its instances, and the threads of each."""
    instances = min(cores, MAX_INSTANCES)
    return instances, cores // instances


def encoders_config(
    manifest: BundleManifest, steps: Mapping[Role, Mapping[str, Any]], max_batch: int = MAX_BATCH
) -> pb.ModelConfig:
    """Configure the component that runs the readers and the encoders in one process.

    Args:
        manifest: The bundle's.
        steps: Role -> its `model`, the `servable` that is its class, and its own `spec`.
        max_batch: Requests that one execution may answer.
    """
    graph = _encoders_graph(manifest)
    spec = {
        "threads": 0,
        "streams": 1,
        "max_batch": ENCODERS_BATCH,
        "pin": False,
        "steps": steps,
    }
    config = component_config(graph, spec, max_batch)
    # What is over goes to another instance, which has a core of its own.
    config.dynamic_batching.preferred_batch_size.append(ENCODERS_BATCH)
    return config


def _encoders_graph(manifest: BundleManifest) -> ComponentGraph:
    """From raw inputs to everything that a head reads."""
    graphs = component_graphs(manifest)
    heads = (graphs[head_role(given)] for given in manifest.entry_points)
    read = dict.fromkeys(tensor for head in heads for tensor in head.inputs)
    read.update(dict.fromkeys(_word_tensors(manifest)[1:]))  # goes on to the caller
    inputs = (TensorSpec(contract.TEXT, (1,)), TensorSpec(contract.IMAGE, (1,)))
    return ComponentGraph("encoders", (), tuple(read), inputs)


def release_ensemble(
    manifest: BundleManifest,
    number: int,
    given: Sequence[Modality],
    components: Mapping[Role, str],
    target: Target,
    precision: Precision,
    max_batch: int = MAX_BATCH,
) -> pb.ModelConfig:
    """Join one release's components for one set of modalities.

    Args:
        manifest: The bundle's.
        number: The release.
        given: The modalities that the caller gives.
        components: Role -> Triton model name.
        target: What the engines were compiled for.
        precision: Of the engines.
        max_batch: Requests that one execution of every component may answer.
    """
    graphs = component_graphs(manifest)
    config = _entry_point(manifest, number, given, target, precision, max_batch)
    config.name = contract.release_entry_point(manifest.app, manifest.verb, tuple(given), number)
    head = graphs[head_role(given)]
    if "encoders" in components:
        inputs = tuple(_entry_inputs(given))
        # Of its outputs those that this head reads: the others' modality may be absent.
        outputs = (*head.inputs, *_word_tensors(manifest)[1:])
        chain = [ComponentGraph("encoders", inputs, outputs)]
    else:
        chain = [graphs[role] for role in _CHAIN if role.partition("_")[0] in given]
    for graph in [*chain, head]:
        step = config.ensemble_scheduling.step.add(
            model_name=components[graph.role], model_version=1
        )
        optional = graph.optional if len(given) > 1 else ()
        for tensor in (*graph.inputs, *optional):
            step.input_map[tensor.name] = tensor.name
        for tensor in graph.outputs:
            step.output_map[tensor.name] = tensor.name
    return config


def alias_ensemble(
    graph: pb.ModelConfig, number: int, rollout: contract.Rollout | None = None
) -> pb.ModelConfig:
    """Point what callers use at one release: an ensemble of one step, which says what that says.

    Args:
        graph: The release's own ensemble; its name ends with `_r<number>`.
        number: The release.
        rollout: A candidate beside it.
    """
    config = pb.ModelConfig(platform="ensemble", max_batch_size=graph.max_batch_size)
    config.name = graph.name.removesuffix(f"_r{number}")
    config.input.extend(graph.input)
    config.output.extend(graph.output)
    _set_parameters(config, {name: value.string_value for name, value in graph.parameters.items()})
    if rollout is not None:
        _set_parameters(config, {contract.PARAM_ROLLOUT: contract.format_rollout(rollout)})
    config.version_policy.specific.versions.append(number)
    step = config.ensemble_scheduling.step.add(model_name=graph.name, model_version=1)
    for tensor in graph.input:
        step.input_map[tensor.name] = tensor.name
    for tensor in graph.output:
        step.output_map[tensor.name] = tensor.name
    return config


def _entry_point(
    manifest: BundleManifest,
    number: int,
    given: Sequence[Modality],
    target: Target,
    precision: Precision,
    max_batch: int,
) -> pb.ModelConfig:
    config = pb.ModelConfig(platform="ensemble", max_batch_size=max_batch)
    for tensor in _entry_inputs(given):
        config.input.append(
            pb.ModelInput(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        )
    # -1, so that releases with other label counts can follow each other under one alias.
    dims = (-1, -1) if manifest.task == "tagging" else (-1,)
    config.output.append(_output(TensorSpec(answer_tensor(manifest.task), dims)))
    for tensor in _word_tensors(manifest)[1:]:
        config.output.append(_output(tensor))
    _set_parameters(
        config,
        contract.entry_point_parameters(
            app=manifest.app,
            release=number,
            task=manifest.task,
            modalities=given,
            labels=manifest.labels,
            target=target,
            precision=precision,
            thresholds=manifest.thresholds,
        ),
    )
    return config


def _entry_inputs(given: Sequence[Modality]) -> list[TensorSpec]:
    names = {"text": contract.TEXT, "image": contract.IMAGE}
    return [TensorSpec(names[modality], (1,)) for modality in given]


def _output(tensor: TensorSpec) -> pb.ModelOutput:
    return pb.ModelOutput(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def _set_parameters(config: pb.ModelConfig, parameters: Mapping[str, str]) -> None:
    for key, value in parameters.items():
        config.parameters[key].string_value = value


def to_pbtxt(config: pb.ModelConfig) -> str:
    """Print a config as config.pbtxt."""
    text: str = text_format.MessageToString(config, as_utf8=True)
    return text
