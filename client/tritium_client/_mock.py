"""An app that exists only in a test: what it is called, and how it answers."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from tritium_client import contract
from tritium_client._call import Call
from tritium_client._exceptions import AppNotFound, ServerError, TritiumClientError
from tritium_client._options import Method
from tritium_client.contract import Modality

Answer = Callable[[str | None, bytes | None], Sequence[float]]
"""Text and encoded picture, None for what was left out -> probabilities in label order."""


@dataclass(frozen=True)
class MockApp:
    """What a mock transport serves under one name."""

    labels: tuple[str, ...]
    """In the order of the probabilities."""
    answer: Answer
    """May raise any TritiumClientError: that is what the call then ends with."""
    release: int = 1
    entry_points: tuple[tuple[Modality, ...], ...] = (("text", "image"), ("text",), ("image",))
    """The sets of modalities that callers may give."""


def respond(apps: dict[str, MockApp], method: Method, request: Any, call: Call) -> Any:
    """Answer a message of Triton's gRPC service as a server with these apps would.

    Raises:
        AppNotFound: no app has such an entry point.
        TritiumClientError: what an app's `answer` raised.
        ServerError: an app's `answer` gave what is no answer.
    """
    if method == "ServerLive":
        return service_pb2.ServerLiveResponse(live=True)
    if method == "ServerReady":
        return service_pb2.ServerReadyResponse(ready=True)
    if method == "ServerMetadata":
        name = contract.format_server_id(apps)
        return service_pb2.ServerMetadataResponse(name=name, version="0.0.0")
    asked = request.model_name if method == "ModelInfer" else request.name
    name, app, modalities = _find(apps, asked)
    if method == "ModelReady":
        return service_pb2.ModelReadyResponse(ready=True)
    if method == "ModelConfig":
        return _config(asked, name, app, modalities)
    return _infer(asked, app, request, call)


def _entry_points(apps: dict[str, MockApp]) -> dict[str, tuple[str, MockApp, tuple[Modality, ...]]]:
    found = {}
    for name, app in apps.items():
        for modalities in app.entry_points:
            alias = contract.entry_point(name, "classify", modalities)
            release = contract.release_entry_point(name, "classify", modalities, app.release)
            found[alias] = found[release] = (name, app, modalities)
    return found


def _find(apps: dict[str, MockApp], asked: str) -> tuple[str, MockApp, tuple[Modality, ...]]:
    found = _entry_points(apps).get(asked)
    if found is None:
        raise AppNotFound(f"the mock does not serve {asked!r}; it has {sorted(apps)}")
    return found


def _config(asked: str, name: str, app: MockApp, modalities: tuple[Modality, ...]) -> Any:
    response = service_pb2.ModelConfigResponse()
    response.config.name = asked
    parameters = {
        contract.PARAM_APP: name,
        contract.PARAM_RELEASE: str(app.release),
        contract.PARAM_TASK: "classification",
        contract.PARAM_MODALITIES: ",".join(modalities),
        contract.PARAM_LABELS: json.dumps(app.labels),
        contract.PARAM_WIRE_VERSION: contract.WIRE_VERSION,
        contract.PARAM_TARGET: "mock",
        contract.PARAM_PRECISION: "fp32",
    }
    for key, value in parameters.items():
        response.config.parameters[key].string_value = value
    return response


def _infer(asked: str, app: MockApp, request: Any, call: Call) -> Any:
    given = {
        tensor.name: raw[struct.calcsize("<I") :]
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    }
    text = given.get(contract.TEXT)
    try:
        answer = app.answer(None if text is None else text.decode(), given.get(contract.IMAGE))
    except TritiumClientError:
        raise
    except Exception as error:
        raise ServerError(f"the mock's answer to {call.request_id} failed: {error!r}") from error
    values = np.asarray(answer, dtype="<f4")
    if values.shape != (len(app.labels),):
        raise ServerError(
            f"the mock's answer has shape {list(values.shape)}, and {len(app.labels)} labels"
        )
    response = service_pb2.ModelInferResponse(
        model_name=asked, model_version=str(app.release), id=request.id
    )
    response.outputs.add(name=contract.PROBABILITIES, datatype="FP32", shape=(1, len(app.labels)))
    response.raw_output_contents.append(values.tobytes())
    return response
