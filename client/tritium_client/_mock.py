"""An app that exists only in a test: what it is called, and how it answers."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

from tritium_client import contract
from tritium_client._call import Call
from tritium_client._exceptions import AppNotFound, ServerError, TritiumClientError
from tritium_client._options import Method
from tritium_client.contract import Modality, Verb

Answer = Callable[[str | None, bytes | None], Sequence[float]]
"""Text and encoded picture, None for what was left out -> numbers: probabilities in label order,
scores, or a vector."""
TagAnswer = Callable[[str, bytes | None], Sequence[str]]
"""Text and encoded picture -> a tag for each word between spaces."""

_Given = tuple[str | None, bytes | None]
_Tensors = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class MockApp:
    """What a mock transport serves under one name: whatever it has an answer for.

    Answers may raise any TritiumClientError: that is what the call then ends with.

    Examples:
        >>> MockApp(labels=("cat", "dog"), answer=lambda text, image: [0.9, 0.1])
        >>> MockApp(embed=lambda text, image: [0.6, 0.8])
        >>> MockApp(labels=("O", "B-PER"), tag=lambda text, image: ["B-PER", "O", "O"])
        >>> MockApp(labels=("price",), score=lambda text, image: [12.5])
    """

    labels: tuple[str, ...] = ()
    """In the order of the probabilities; the tags of `tag`, the names of `score`."""
    answer: Answer | None = None
    """What `classify` answers with: probabilities in label order."""
    release: int = 1
    entry_points: tuple[tuple[Modality, ...], ...] = (("text", "image"), ("text",), ("image",))
    """The sets of modalities that callers may give."""
    embed: Answer | None = None
    """What `embed_text` and `embed_image` answer with: a vector."""
    score: Answer | None = None
    """What `score` answers with: a number for each label."""
    tag: TagAnswer | None = None
    """What `tag` answers with: one of the labels for each word between spaces."""


@dataclass(frozen=True)
class _EntryPoint:
    app: str
    mock: MockApp
    verb: Verb
    modalities: tuple[Modality, ...]


def respond(apps: dict[str, MockApp], method: Method, request: Any, call: Call) -> Any:
    """Answer a message of Triton's gRPC service as a server with these apps would.

    Raises:
        AppNotFound: no app has such an entry point.
        TritiumClientError: what an app's answer raised.
        ServerError: an app's answer is none.
    """
    if method == "ServerLive":
        return service_pb2.ServerLiveResponse(live=True)
    if method == "ServerReady":
        return service_pb2.ServerReadyResponse(ready=True)
    if method == "ServerMetadata":
        name = contract.format_server_id(apps)
        return service_pb2.ServerMetadataResponse(name=name, version="0.0.0")
    asked = request.model_name if method == "ModelInfer" else request.name
    found = dict(_entry_points(apps)).get(asked)
    if found is None:
        raise AppNotFound(f"the mock does not serve {asked!r}; it has {sorted(apps)}")
    if method == "ModelReady":
        return service_pb2.ModelReadyResponse(ready=True)
    if method == "ModelConfig":
        return _config(asked, found)
    return _infer(asked, found, request, call)


def _entry_points(apps: dict[str, MockApp]) -> Iterator[tuple[str, _EntryPoint]]:
    for name, mock in apps.items():
        has: dict[Verb, object] = {
            "classify": mock.answer, "tag": mock.tag, "score": mock.score, "embed": mock.embed
        }  # fmt: skip
        for verb in (verb for verb, answer in has.items() if answer is not None):
            for modalities in mock.entry_points:
                # Vectors are of one modality, and there are no words without a text.
                fits = {"embed": len(modalities) == 1, "tag": "text" in modalities}
                if fits.get(verb, True):
                    one = _EntryPoint(name, mock, verb, modalities)
                    release = mock.release
                    yield contract.entry_point(name, verb, modalities), one
                    yield contract.release_entry_point(name, verb, modalities, release), one


def _config(asked: str, found: _EntryPoint) -> Any:
    response = service_pb2.ModelConfigResponse()
    response.config.name = asked
    parameters = contract.entry_point_parameters(
        app=found.app,
        release=found.mock.release,
        task="classification" if found.verb == "classify" else found.verb,
        modalities=found.modalities,
        labels=found.mock.labels,
        target="mock",
        precision="fp32",
    )
    for key, value in parameters.items():
        response.config.parameters[key].string_value = value
    return response


def _infer(asked: str, found: _EntryPoint, request: Any, call: Call) -> Any:
    raw = {
        tensor.name: content[struct.calcsize("<I") :]
        for tensor, content in zip(request.inputs, request.raw_input_contents, strict=True)
    }
    text = raw.get(contract.TEXT)
    given = (None if text is None else text.decode(), raw.get(contract.IMAGE))
    try:
        tensors = _answer(found, given)
    except TritiumClientError:
        raise
    except Exception as error:
        raise ServerError(f"the mock's answer to {call.request_id} failed: {error!r}") from error
    response = service_pb2.ModelInferResponse(
        model_name=asked, model_version=str(found.mock.release), id=request.id
    )
    for name, values in tensors.items():
        datatype = "INT64" if values.dtype == np.int64 else "FP32"
        response.outputs.add(name=name, datatype=datatype, shape=(1, *values.shape))
        response.raw_output_contents.append(values.tobytes())
    return response


def _answer(found: _EntryPoint, given: _Given) -> _Tensors:
    mock = found.mock
    if found.verb == "tag" and mock.tag is not None:
        return _tag(mock.labels, given[0] or "", mock.tag(given[0] or "", given[1]))
    if found.verb == "embed" and mock.embed is not None:
        return {contract.EMBEDDING: _numbers(mock.embed(*given))}
    if found.verb == "score" and mock.score is not None:
        return {contract.SCORES: _numbers(mock.score(*given), len(mock.labels))}
    assert mock.answer is not None  # noqa: S101 - an entry point has its answer
    return {contract.PROBABILITIES: _numbers(mock.answer(*given), len(mock.labels))}


def _numbers(answer: Sequence[float], labels: int | None = None) -> npt.NDArray[Any]:
    values = np.asarray(answer, dtype="<f4")
    if values.ndim != 1 or labels not in {None, len(values)}:
        expected = "" if labels is None else f", and {labels} labels"
        raise ServerError(f"the mock's answer has shape {list(values.shape)}{expected}")
    return values


def _tag(labels: tuple[str, ...], text: str, tags: Sequence[str]) -> _Tensors:
    words = [word.span() for word in re.finditer(r"\S+", text)]
    if len(tags) != len(words) or not set(tags) <= set(labels):
        raise ServerError(f"the mock's answer is {list(tags)}, for {len(words)} words and {labels}")
    rows = [[float(tag == label) for label in labels] for tag in tags]
    return {
        contract.PROBABILITIES: np.array(rows, "<f4").reshape(len(words), len(labels)),
        contract.OFFSETS: np.array(words, np.int64).reshape(len(words), 2),
    }
