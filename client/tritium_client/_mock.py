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
from tritium_client.contract import Modality, Rollout, Verb

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
        >>> MockApp(labels=("cat", "pet"), annotate=lambda text, image: [0.9, 0.6])
        >>> MockApp(embed=lambda text, image: [0.6, 0.8])
        >>> MockApp(labels=("O", "B-PER"), tag=lambda text, image: ["B-PER", "O", "O"])
        >>> MockApp(labels=("price",), score=lambda text, image: [12.5])

        While a new release is tried out on half of the keys:

        >>> new = MockApp(labels=("cat", "dog"), answer=lambda text, image: [0.8, 0.2], release=2)
        >>> MockApp(labels=("cat", "dog"), answer=lambda text, image: [0.9, 0.1],
        ...         candidate=new, canary_percent=50)

    Raises:
        ValueError: the candidate has the live release's number, or a share is not between 0 and
            100, or there is no candidate for it.
    """

    labels: tuple[str, ...] = ()
    """In the order of the probabilities; the tags of `tag`, the names of `score`."""
    answer: Answer | None = None
    """What `classify` answers with: probabilities in label order."""
    release: int = 1
    entry_points: tuple[tuple[Modality, ...], ...] = (("text", "image"), ("text",), ("image",))
    """The sets of modalities that callers may give."""
    annotate: Answer | None = None
    """What `annotate` answers with: probabilities in label order; from 0.5 on a label holds."""
    embed: Answer | None = None
    """What `embed_text` and `embed_image` answer with: a vector."""
    score: Answer | None = None
    """What `score` answers with: a number for each label."""
    tag: TagAnswer | None = None
    """What `tag` answers with: one of the labels for each word between spaces."""
    candidate: MockApp | None = None
    """A release beside this one; it needs another number."""
    canary_percent: float = 0.0
    """Share of keys whose requests the candidate answers, 0 to 100."""
    shadow_percent: float = 0.0
    """Share of other requests that the candidate is asked as well, 0 to 100."""

    def __post_init__(self) -> None:
        if self.candidate is None and (self.canary_percent or self.shadow_percent):
            raise ValueError("a share of requests needs a candidate that answers them")
        if self.candidate is not None and self.candidate.release == self.release:
            raise ValueError(f"the candidate has the live release's number, {self.release}")
        _rollout(self)  # checks the shares


@dataclass(frozen=True)
class _EntryPoint:
    app: str
    mock: MockApp
    verb: Verb
    modalities: tuple[Modality, ...]
    is_alias: bool
    """What callers use; else a release's own ensemble."""


def _rollout(mock: MockApp) -> Rollout | None:
    if mock.candidate is None:
        return None
    return Rollout(mock.candidate.release, mock.canary_percent, mock.shadow_percent)


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
        for verb, modalities in _answered_by(mock):
            one = _EntryPoint(name, mock, verb, modalities, is_alias=True)
            yield contract.entry_point(name, verb, modalities), one
        for release in [mock] if mock.candidate is None else [mock, mock.candidate]:
            for verb, modalities in _answered_by(release):
                one = _EntryPoint(name, release, verb, modalities, is_alias=False)
                number = release.release
                yield contract.release_entry_point(name, verb, modalities, number), one


def _answered_by(mock: MockApp) -> Iterator[tuple[Verb, tuple[Modality, ...]]]:
    has: dict[Verb, object] = {
        "classify": mock.answer, "annotate": mock.annotate, "tag": mock.tag,
        "score": mock.score, "embed": mock.embed,
    }  # fmt: skip
    for verb in (verb for verb, answer in has.items() if answer is not None):
        for modalities in mock.entry_points:
            # Vectors are of one modality, and there are no words without a text.
            fits = {"embed": len(modalities) == 1, "tag": "text" in modalities}
            if fits.get(verb, True):
                yield verb, modalities


def _config(asked: str, found: _EntryPoint) -> Any:
    response = service_pb2.ModelConfigResponse()
    response.config.name = asked
    parameters = contract.entry_point_parameters(
        app=found.app,
        release=found.mock.release,
        task=next(task for task, verb in contract.VERB_OF.items() if verb == found.verb),
        modalities=found.modalities,
        labels=found.mock.labels,
        target="mock",
        precision="fp32",
        thresholds=[0.5] * len(found.mock.labels) if found.verb == "annotate" else (),
    )
    rollout = _rollout(found.mock) if found.is_alias else None
    if rollout is not None:
        parameters[contract.PARAM_ROLLOUT] = contract.format_rollout(rollout)
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
    version = str(found.mock.release if found.is_alias else 1)
    response = service_pb2.ModelInferResponse(
        model_name=asked, model_version=version, id=request.id
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
    answer = mock.annotate if found.verb == "annotate" else mock.answer
    assert answer is not None  # noqa: S101 - an entry point has its answer
    return {contract.PROBABILITIES: _numbers(answer(*given), len(mock.labels))}


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
