"""Requests and answers as Triton's messages; the only file that knows their layout."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

from tritium_client import contract
from tritium_client._exceptions import IncompatibleRelease, ServerError
from tritium_client._results import Ranked
from tritium_client.contract import Modality, Verb


@dataclass(frozen=True)
class EntryPointConfig:
    """What an entry point's config says of the release behind it."""

    app: str
    release: int
    task: str
    labels: tuple[str, ...]
    modalities: tuple[Modality, ...]
    target: str
    precision: str
    wire_version: str
    server_apps: tuple[str, ...]
    """Every app of the server, as of the load of this entry point; empty when it does not say."""
    rollout: str
    """`PARAM_ROLLOUT` as it stands there; empty when there is none."""
    thresholds: tuple[float, ...] = ()
    """Of `annotate`: from which probability on each label holds."""
    entry_points: tuple[str, ...] = ()
    """Every one that its app has on that server; empty where an older server does not say."""


@dataclass(frozen=True)
class Answer:
    """What an entry point answered for one item, read and checked."""

    release: EntryPointConfig
    """What the release that computed it says of itself."""
    values: npt.NDArray[np.float32]
    """Read-only: probabilities [labels], or [words, labels] of `tag`; scores; a vector."""
    offsets: tuple[tuple[int, int], ...] = ()
    """Of `tag`: where each word begins and ends."""


def infer_request(
    entry_point: str,
    inputs: Mapping[Modality, bytes],
    *,
    request_id: str,
    outputs: Sequence[str] = contract.OUTPUTS["classify"],
) -> Any:
    """Write a request of one item: each modality is BYTES [1, 1].

    Args:
        entry_point: The Triton model.
        inputs: Modality -> bytes.
        request_id: Comes back with the answer, and is what the server logs.
        outputs: The tensors to be answered with.
    """
    request = service_pb2.ModelInferRequest(model_name=entry_point, id=request_id)
    for modality, data in inputs.items():
        request.inputs.add(name=modality, datatype="BYTES", shape=(1, 1))
        # An element of BYTES is its length, 4 bytes little-endian, and its content.
        request.raw_input_contents.append(struct.pack("<I", len(data)) + data)
    for name in outputs:
        request.outputs.add(name=name)
    return request


def set_timeout(request: Any, timeout_s: float) -> None:
    """Write how long a request may wait: one that is still in a queue by then is not computed.

    Args:
        request: What `infer_request` wrote; an earlier timeout is replaced.
        timeout_s: Seconds; Triton's request parameter `timeout` has them in microseconds.
    """
    request.parameters["timeout"].int64_param = max(1, int(timeout_s * 1_000_000))


def read_release(response: Any) -> int:
    """The release that computed an answer: the version of the alias ensemble.

    Raises:
        ServerError: when the answer does not carry a release number.
    """
    try:
        return int(response.model_version)
    except ValueError as error:
        raise ServerError(
            f"{response.model_name!r} answered with version {response.model_version!r}, "
            "which is no release number"
        ) from error


def read_answer(verb: Verb, response: Any, release: EntryPointConfig) -> Answer:
    """Read what an entry point answered.

    Args:
        verb: What it does.
        response: A ModelInferResponse.
        release: What the release that computed it says of itself.

    Raises:
        ServerError: when it is not what such an entry point answers.
    """
    labels = len(release.labels)
    if verb == "annotate" and len(release.thresholds) != labels:
        raise ServerError(
            f"{response.model_name!r} has {len(release.thresholds)} thresholds for {labels} labels"
        )
    if verb in {"classify", "annotate"}:
        return Answer(release, read_probabilities(response, labels))
    if verb == "score":
        return Answer(release, read_scores(response, labels))
    if verb == "embed":
        return Answer(release, read_floats(response, contract.EMBEDDING, 1))
    rows = read_word_probabilities(response, labels)
    return Answer(release, rows, tuple(read_offsets(response, len(rows))))


def read_probabilities(response: Any, labels: int) -> npt.NDArray[np.float32]:
    """Read the probabilities of one item.

    Returns:
        FP32 [labels], read-only.

    Raises:
        ServerError: when they are missing, or not one for each label.
    """
    probabilities = read_floats(response, contract.PROBABILITIES, 1)
    if len(probabilities) != labels:
        raise ServerError(
            f"{response.model_name!r} answered {len(probabilities)} probabilities "
            f"for {labels} labels"
        )
    return probabilities


def read_word_probabilities(response: Any, labels: int) -> npt.NDArray[np.float32]:
    """Read the probabilities of each word of one item.

    Returns:
        FP32 [words, labels], read-only.

    Raises:
        ServerError: when they are missing, or not one for each label.
    """
    rows = read_floats(response, contract.PROBABILITIES, 2)
    if rows.shape[1] != labels:
        raise ServerError(
            f"{response.model_name!r} answered {rows.shape[1]} probabilities a word "
            f"for {labels} labels"
        )
    return rows


def read_scores(response: Any, names: int) -> npt.NDArray[np.float32]:
    """Read the scores of one item.

    Returns:
        FP32 [outputs], read-only.

    Raises:
        ServerError: when they are missing, or not one for each name.
    """
    values = read_floats(response, contract.SCORES, 1)
    if len(values) != names or names == 0:
        raise ServerError(
            f"{response.model_name!r} answered {len(values)} scores for {names} names"
        )
    return values


def read_floats(response: Any, name: str, dimensions: int) -> npt.NDArray[np.float32]:
    """Read an FP32 tensor of one item, without the dimension of the batch; read-only.

    Raises:
        ServerError: when it is missing or has another type or shape.
    """
    values: npt.NDArray[np.float32] = _read(response, name, "FP32", "<f4", dimensions)
    return values


def read_offsets(response: Any, words: int) -> list[tuple[int, int]]:
    """Read where each word of one item begins and ends.

    Raises:
        ServerError: when there is not one pair for each word.
    """
    offsets = _read(response, contract.OFFSETS, "INT64", "<i8", 2)
    if offsets.shape != (words, 2):
        raise ServerError(
            f"{response.model_name!r} answered offsets {list(offsets.shape)} for {words} words"
        )
    return [(start, end) for start, end in offsets.tolist()]


def _read(response: Any, name: str, datatype: str, dtype: str, dimensions: int) -> Any:
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=False):
        if output.name == name and output.datatype == datatype:
            values = np.frombuffer(raw, dtype=dtype)
            shape = tuple(output.shape)
            if len(shape) != dimensions + 1 or shape[0] != 1 or math.prod(shape) != values.size:
                raise ServerError(
                    f"{response.model_name!r} answered {name!r} of shape {list(shape)} with "
                    f"{values.size} values; one item of {dimensions} dimensions was expected"
                )
            return values.reshape(shape[1:])
    raise ServerError(f"{response.model_name!r} answered without {name!r} ({datatype})")


def rank(
    labels: tuple[str, ...], probabilities: npt.NDArray[np.float32], top_k: int
) -> tuple[Ranked, ...]:
    """The `top_k` most probable labels, most probable first; equal ones in label order."""
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    chosen = zip(order.tolist(), probabilities[order].tolist(), strict=True)
    return tuple(Ranked(labels[index], probability) for index, probability in chosen)


def read_config(config: Any) -> EntryPointConfig:
    """Read the parameters of an entry point's config.

    Args:
        config: A ModelConfig message.

    Raises:
        IncompatibleRelease: when the release speaks another major version of the contract.
        ServerError: when a parameter is missing or cannot be read.
    """
    values = {key: value.string_value for key, value in config.parameters.items()}
    try:
        _check_wire_version(config.name, values[contract.PARAM_WIRE_VERSION])
        return EntryPointConfig(
            app=values[contract.PARAM_APP],
            release=int(values[contract.PARAM_RELEASE]),
            task=values[contract.PARAM_TASK],
            labels=_strings(json.loads(values[contract.PARAM_LABELS])),
            modalities=_modalities(values[contract.PARAM_MODALITIES].split(",")),
            target=values[contract.PARAM_TARGET],
            precision=values[contract.PARAM_PRECISION],
            wire_version=values[contract.PARAM_WIRE_VERSION],
            server_apps=_strings(json.loads(values.get(contract.PARAM_SERVER_APPS, "[]"))),
            entry_points=_strings(json.loads(values.get(contract.PARAM_SERVER_ENTRY_POINTS, "[]"))),
            rollout=values.get(contract.PARAM_ROLLOUT, ""),
            thresholds=_numbers(json.loads(values.get(contract.PARAM_THRESHOLDS, "[]"))),
        )
    except KeyError as error:
        raise ServerError(
            f"{config.name!r} is no entry point of Tritium: its config has no parameter {error}"
        ) from error
    except ValueError as error:
        raise ServerError(f"{config.name!r}: its config cannot be read: {error}") from error


def _check_wire_version(model: str, theirs: str) -> None:
    ours = contract.WIRE_VERSION
    if theirs.partition(".")[0] == ours.partition(".")[0]:
        return
    raise IncompatibleRelease(
        f"{model!r} speaks version {theirs} of the wire contract, this package {ours}: install "
        f"the tritium package that speaks {theirs.partition('.')[0]}.x, or build the release again"
    )


def _strings(values: object) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{values!r} is not a JSON list of strings")
    return tuple(values)


def _numbers(values: object) -> tuple[float, ...]:
    if not isinstance(values, list) or not all(type(value) in {int, float} for value in values):
        raise ValueError(f"{values!r} is not a JSON list of numbers")
    return tuple(float(value) for value in values)


def _modalities(names: Iterable[str]) -> tuple[Modality, ...]:
    # A release of a newer minor version may know modalities that this package does not.
    known = set(names)
    return tuple(modality for modality in contract.MODALITIES if modality in known)
