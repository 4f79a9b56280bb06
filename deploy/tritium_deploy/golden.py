"""Replay golden samples through Triton and compare with PyTorch's answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from tritium_builders.samples import Sample, modalities_key
from tritium_builders.tasks import answer_tensor
from tritium_client.contract import OFFSETS, OUTPUTS, Modality, Verb
from tritium_deploy.control import one_line
from tritium_deploy.errors import GoldenError, ReleaseError
from tritium_deploy.live import AppRelease
from tritium_deploy.security.access import PLAIN, Access

IN_FLIGHT = 4
GRAPH_VERSION = "1"
"""Of a release's own ensembles; their names have its number."""


@dataclass(frozen=True)
class GoldenCheck:
    """A replay in which every answer was right."""

    answers: int
    largest_difference: float
    """Of a value from PyTorch's; of a score, in its unit."""


@dataclass(frozen=True)
class Answer:
    """What a model answered."""

    values: np.ndarray[Any, Any] | None
    """FP32 [1, labels], [1, scores], [1, D], or of words [1, words, labels]; None where the answer
    has no such output."""
    version: str
    """Of the model that answered."""
    seconds: float
    """From asking to the answer."""
    offsets: list[tuple[int, int]]
    """Of words: where each begins and ends."""


@dataclass(frozen=True)
class _Question:
    entry_point: str
    version: str
    """That has to answer."""
    modalities: Sequence[Modality]
    sample: Sample


class GoldenReplay:
    """Asks one server for golden answers.

    Args:
        url: Its gRPC address, `host:port`.
        access: How it is reached.
        cached: Whether it caches the answers of entry points. What was asked once is then asked of
            the release's own ensembles, which have to compute it.
    """

    def __init__(self, url: str, access: Access = PLAIN, *, cached: bool = False) -> None:
        self._client = access.connect(url)
        self._cached = cached

    def check(
        self,
        app: AppRelease,
        *,
        samples: int | None = None,
        again: bool = True,
        graphs: bool = False,
        timeout_s: float = 30.0,
        on_answer: Callable[[], None] = lambda: None,
    ) -> GoldenCheck:
        """Send golden samples through every entry point of an app, a few at a time.

        Args:
            app: What to ask.
            samples: How many samples; None for all.
            again: Whether this server may have been asked them before.
            graphs: Ask the release's own ensembles: what callers name may be another release.
            timeout_s: Seconds for each answer.
            on_answer: Called after each right answer, from several threads.

        Raises:
            GoldenError: naming entry point and sample, when an answer is missing, comes from
                another release, or is further from PyTorch's than the release's tolerance.
        """
        graphs = graphs or (self._cached and again)
        asked = app.graphs if graphs else app.entry_points
        version = GRAPH_VERSION if graphs else str(app.release.number)
        questions = [
            _Question(entry_point, version, modalities, sample)
            for sample in app.golden[:samples]
            for entry_point, modalities in asked.items()
        ]

        def ask(question: _Question) -> float:
            difference = self._ask(app, question, timeout_s)
            on_answer()
            return difference

        pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="golden")
        try:
            differences = list(pool.map(ask, questions))
        finally:
            # One that hangs ends with its deadline or its server; the error need not wait for it.
            pool.shutdown(wait=False, cancel_futures=True)
        return GoldenCheck(len(differences), max(differences))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _ask(self, app: AppRelease, question: _Question, timeout_s: float) -> float:
        sample, name = question.sample, question.entry_point
        verb = app.release.verb
        answer = ask_model(self._client, name, question.modalities, sample, timeout_s, verb)
        if answer.version != question.version:
            raise ReleaseError(name, sample.id, answer.version, question.version)
        key = modalities_key(question.modalities)
        return _difference(app, name, sample, key, answer.values)


def ask_model(
    client: InferenceServerClient,
    name: str,
    modalities: Sequence[Modality],
    sample: Sample,
    timeout_s: float,
    verb: Verb,
) -> Answer:
    """Ask one model, which does `verb`, about one sample.

    Raises:
        GoldenError: it did not answer.
    """
    given = {"text": sample.text.encode(), "image": sample.image}
    inputs = [_bytes_input(modality, given[modality]) for modality in modalities]
    began = time.perf_counter()
    try:
        result = client.infer(name, inputs, client_timeout=timeout_s)
    except InferenceServerException as error:
        if str(error.status()) == "StatusCode.DEADLINE_EXCEEDED":
            problem = f"no answer within {timeout_s:g} s"
        else:
            problem = f"failed: {one_line(error.message() or str(error))}"
        raise GoldenError(name, sample.id, problem) from error
    seconds = time.perf_counter() - began
    version = result.get_response().model_version
    offsets = result.as_numpy(OFFSETS) if OFFSETS in OUTPUTS[verb] else None
    places = [] if offsets is None else [(begin, end) for begin, end in offsets[0].tolist()]
    return Answer(result.as_numpy(OUTPUTS[verb][0]), version, seconds, places)


def _difference(
    app: AppRelease, entry_point: str, sample: Sample, key: str, answer: np.ndarray[Any, Any] | None
) -> float:
    output = answer_tensor(app.release.task)
    if key not in sample.expected:
        raise GoldenError(entry_point, sample.id, f"the release holds no expected answer for {key}")
    if answer is None:
        raise GoldenError(entry_point, sample.id, f"the answer has no output {output}")
    expected = np.asarray(sample.expected[key], dtype=np.float64)
    actual = np.asarray(answer, dtype=np.float64).reshape(-1)
    if actual.shape != expected.shape:
        raise GoldenError(
            entry_point, sample.id, f"{actual.size} {output} in place of {expected.size}"
        )
    units = np.array(app.release.units or 1.0)
    difference = float((np.abs(actual - expected) / units).max())
    tolerance = app.release.parity.tolerance.probabilities
    # Written so that NaN is refused as well.
    if not difference <= tolerance:
        said = ""
        if app.release.task == "classification":
            labels = app.release.labels
            pair = labels[int(actual.argmax())], labels[int(expected.argmax())]
            said = f" (answered {pair[0]}, PyTorch {pair[1]})"
        raise GoldenError(
            entry_point,
            sample.id,
            f"{output} differ by {difference:.6g}, tolerance {tolerance:.6g}{said}; build the "
            "release again on this kind of machine",
        )
    return difference


def _bytes_input(name: str, value: bytes) -> InferInput:
    # Entry points batch, so one item is a batch of one.
    tensor = InferInput(name, [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[value]], dtype=np.object_))
    return tensor
