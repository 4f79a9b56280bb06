"""Hostile inputs against the running server, each sent raw and through the SDK.

The list is tests/support/hostile.py; docs/hostile-inputs.md is the same list for people.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any, TypeVar

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.support.hostile import (
    ANSWERED,
    GOOD_IMAGE,
    GOOD_TEXT,
    PICTURES,
    REQUEST,
    REQUESTS,
    TEXTS,
    Content,
    Tensor,
    Wire,
    element,
)
from tests.support.pictures import png
from tritium_client import Client, InvalidInput, contract
from tritium_client._call import Call
from tritium_client._sync.transport import GrpcTransport
from tritium_deploy import Server

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).parents[2] / "docs" / "hostile-inputs.md"
WITHIN_S = 1.0
"""Issue 2: each gets its error, or a sensible answer, within a second."""
TRIES = 3
"""The best of these counts: the machine does other things as well."""
GOOD: dict[str, bytes] = {"text": GOOD_TEXT, "image": GOOD_IMAGE}

Outcome = TypeVar("Outcome")


@pytest.fixture(scope="module")
def raw(server: Server) -> Iterator[Any]:
    """Triton's own gRPC stub, without a line of the SDK."""
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.grpc_url, options=options) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def request(model: str, tensors: Sequence[Tensor], output: str = contract.PROBABILITIES) -> Any:
    """Write a request by hand."""
    message = service_pb2.ModelInferRequest(model_name=model)
    for tensor in tensors:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_input_contents.append(tensor.content)
    message.outputs.add(name=output)
    return message


def given(case: Content, beside: bool) -> dict[str, bytes]:
    """The bad input alone, or beside a good one of the other modality."""
    bad: dict[str, bytes] = {case.modality: case.make()}
    return {**GOOD, **bad} if beside else dict(bad)


def entry_point(names: Sequence[str]) -> str:
    return contract.entry_point("openmoji", "classify", tuple(names))  # type: ignore[arg-type]


def quickest(call: Callable[[], Outcome]) -> tuple[Outcome, float]:
    """What a call came to, and the shortest time that it took."""
    times = []
    for _ in range(TRIES):
        started = time.perf_counter()
        outcome = call()
        times.append(time.perf_counter() - started)
        if times[-1] < WITHIN_S:
            break
    return outcome, min(times)


def send_raw(raw: Any, message: Any) -> Any:
    """Send a request by hand; gives the answer or the error."""
    try:
        return raw.ModelInfer(message, timeout=30)
    except grpc.RpcError as error:
        return error


def assert_distributions(response: Any, items: int = 1) -> None:
    assert not isinstance(response, grpc.RpcError), response
    values = np.frombuffer(response.raw_output_contents[0], np.float32).reshape(items, -1)
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values.sum(1), 1, atol=1e-4)


def assert_refused_raw(error: Any, stage: str, item: int, reason: str) -> None:
    assert isinstance(error, grpc.RpcError), f"it was answered: {error}"
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error.details()
    found = contract.parse_error(error.details())
    if stage == REQUEST:
        assert found is None
        assert reason in error.details()
    else:
        assert found is not None, error.details()
        assert (found.stage, found.item) == (stage, item)
        assert reason in found.reason


BESIDE = pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a good one"])
CONTENTS = pytest.mark.parametrize("case", [*PICTURES, *TEXTS], ids=lambda case: case.name)


@BESIDE
@CONTENTS
def test_content_sent_raw(raw: Any, case: Content, beside: bool) -> None:
    inputs = given(case, beside)
    tensors = [Tensor(name, element(value)) for name, value in inputs.items()]
    message = request(entry_point(list(inputs)), tensors)
    outcome, seconds = quickest(lambda: send_raw(raw, message))
    if case.stage == ANSWERED:
        assert_distributions(outcome)
    else:
        assert_refused_raw(outcome, case.stage, 0, case.reason)
    assert seconds < WITHIN_S


@BESIDE
@CONTENTS
def test_content_through_the_sdk(client: Client, case: Content, beside: bool) -> None:
    inputs: dict[str, Any] = given(case, beside)

    def call() -> Any:
        try:
            return client.classify(**inputs, timeout_s=30)
        except InvalidInput as error:
            return error

    outcome, seconds = quickest(call)
    assert seconds < WITHIN_S
    if case.sdk_stage == ANSWERED:
        assert not isinstance(outcome, InvalidInput), outcome
        assert outcome.label in client.labels()
        if case.like is not None:
            plain: dict[str, Any] = {**inputs, case.modality: case.like()}
            want = client.classify(**plain).probabilities
            np.testing.assert_allclose(outcome.probabilities, want, atol=1e-5)
        return
    assert isinstance(outcome, InvalidInput), f"it was answered: {outcome}"
    assert (outcome.stage, outcome.index) == (case.sdk_stage, 0)
    assert (case.sdk_reason or case.reason) in outcome.reason
    assert not outcome.retryable


@pytest.mark.parametrize(
    "case", [case for case in (*PICTURES, *TEXTS) if case.sdk_reason], ids=lambda case: case.name
)
def test_what_the_sdk_refuses_does_not_travel(case: Content) -> None:
    with (
        Client("127.0.0.1:1", app="openmoji") as client,  # nobody listens there
        pytest.raises(InvalidInput, match=re.escape(case.sdk_reason)) as caught,
    ):
        client.classify(**given(case, beside=False))  # type: ignore[arg-type]
    assert caught.value.stage == "client"


@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: case.name)
def test_requests_sent_raw(raw: Any, case: Wire) -> None:
    message = request("openmoji_classify", case.tensors, case.output)
    outcome, seconds = quickest(lambda: send_raw(raw, message))
    if case.reason:
        assert_refused_raw(outcome, case.stage, case.item, case.reason)
    else:
        assert_distributions(outcome, case.tensors[0].shape[0])
    assert seconds < WITHIN_S


@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: case.name)
def test_requests_through_the_sdk(server: Server, case: Wire) -> None:
    """No argument makes the SDK write these, so they are handed to what sends its requests."""
    message = request("openmoji_classify", case.tensors, case.output)
    message.id = "an-id"
    transport = GrpcTransport(server.grpc_url)

    def call() -> Any:
        try:
            return transport.send("ModelInfer", message, Call(server.grpc_url, 30))
        except InvalidInput as error:
            return error

    try:
        outcome, seconds = quickest(call)
    finally:
        transport.close()
    assert seconds < WITHIN_S
    if not case.reason:
        assert_distributions(outcome, case.tensors[0].shape[0])
        return
    assert isinstance(outcome, InvalidInput), f"it was answered: {outcome}"
    assert (outcome.stage, outcome.index) == (case.stage, case.item)
    assert case.reason in outcome.reason
    assert "an-id" not in outcome.reason


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "nothing was given"),
        ({"text": 5}, "text must be str or bytes, not int"),
        ({"text": "\ud800"}, "half a surrogate pair"),
        ({"image": 5}, "image must be a path, bytes, a binary file"),
        ({"image": np.zeros((4, 4), np.uint8)}, r"must be uint8 \[height, width, 3\]"),
        ({"image": np.zeros((4, 4, 3), np.float32)}, "this one is float32"),
        ({"image": np.zeros((0, 4, 3), np.uint8)}, "has no pixels"),
        ({"image": np.broadcast_to(np.uint8(0), (20_000, 30_000, 3))}, "600,000,000 pixels"),
        ({"image": "no/such/file.png"}, "cannot read the image no/such/file.png"),
    ],
)
def test_wrong_arguments_never_travel(arguments: dict[str, Any], reason: str) -> None:
    started = time.perf_counter()
    with (
        Client("127.0.0.1:1", app="openmoji") as client,
        pytest.raises(InvalidInput, match=reason) as caught,
    ):
        client.classify(**arguments)
    assert caught.value.stage == "client"
    assert time.perf_counter() - started < WITHIN_S


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("text in place of an image", "image"),
        ("a truncated JPEG", "image"),
        ("a 600-megapixel PNG", "image"),
        ("a progressive JPEG of 5,000 scans", "image"),
        ("invalid UTF-8", "text"),
        ("a megabyte of text", "text"),
    ],
)
def test_seven_neighbours_of_a_bad_request_are_answered(
    raw: Any, name: str, modality: contract.Modality
) -> None:
    (case,) = [case for case in (*PICTURES, *TEXTS) if case.name == name]
    texts = [b"apple", b"a red car", b"cat", b"x " * 60, b"flag", b"happy face", b"3"]
    good = [{"text": text, "image": png(80, 60, seed)} for seed, text in enumerate(texts)]
    bad = given(case, beside=True)

    def send(inputs: dict[str, bytes]) -> Any:
        tensors = [Tensor(key, element(value)) for key, value in inputs.items()]
        return send_raw(raw, request("openmoji_classify", tensors))

    def values(response: Any) -> Any:
        assert not isinstance(response, grpc.RpcError), response
        return np.frombuffer(response.raw_output_contents[0], np.float32)

    expected = [values(send(inputs)) for inputs in good]
    at_once = Barrier(8)

    def send_at_once(inputs: dict[str, bytes]) -> Any:
        at_once.wait(10)
        return send(inputs)

    with ThreadPoolExecutor(8) as pool:
        for place in range(8):
            requests = [*good[:place], bad, *good[place:]]
            answers = list(pool.map(send_at_once, requests))
            assert_refused_raw(answers.pop(place), case.stage, 0, case.reason)
            for answer, want in zip(answers, expected, strict=True):
                np.testing.assert_allclose(values(answer), want, atol=1e-4)


def documented() -> dict[str, tuple[str, str, str]]:
    """Each row of the page's tables: input -> who refuses it raw and in the SDK, and the row."""
    rows = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 4 and not set(cells[0]) <= set("- "):
            name, raw_cell, sdk_cell, _ = cells
            rows[name] = (raw_cell.strip("`"), sdk_cell.strip("`"), line)
    return {name: row for name, row in rows.items() if name != "Input"}


def test_the_page_and_the_list_agree() -> None:
    contents = (*PICTURES, *TEXTS)
    stages = {case.name: (case.stage, case.sdk_stage) for case in contents}
    stages |= {wire.name: (wire.stage, wire.stage) for wire in REQUESTS}
    reasons = {case.name: case.reason for case in contents}
    reasons |= {wire.name: wire.reason for wire in REQUESTS}
    rows = documented()
    assert {name: row[:2] for name, row in rows.items()} == stages
    for name, reason in reasons.items():
        assert reason in rows[name][2], f"{name}: {reason}"
