"""From gRPC status codes and Triton's messages to our exceptions.

The messages are those of Triton 2.51; test_client_faults.py provokes them with a real server.
"""

from __future__ import annotations

import pytest

from tritium_client import (
    AppNotFound,
    ClientClosed,
    DeadlineExceeded,
    InvalidInput,
    ServerError,
    ServerUnavailable,
    TritiumClientError,
)
from tritium_client._translation import Failure, translate


def translated(code: str, details: str) -> TritiumClientError:
    return translate(Failure(code, details, "host:8001", "demo_classify", 0.5))


@pytest.mark.parametrize(
    ("code", "expected", "retryable"),
    [
        ("INVALID_ARGUMENT", InvalidInput, False),
        ("NOT_FOUND", AppNotFound, False),
        ("UNAVAILABLE", ServerUnavailable, True),
        ("DEADLINE_EXCEEDED", DeadlineExceeded, False),
        ("CANCELLED", ClientClosed, False),
        ("INTERNAL", ServerError, False),
        ("UNKNOWN", ServerError, False),
        ("RESOURCE_EXHAUSTED", ServerError, False),
        ("A_CODE_OF_THE_FUTURE", ServerError, False),
    ],
)
def test_the_status_code_picks_the_exception(
    code: str, expected: type[TritiumClientError], retryable: bool
) -> None:
    error = translated(code, "whatever Triton says")
    assert type(error) is expected
    assert error.retryable is retryable


def test_a_stage_s_refusal_keeps_stage_item_and_reason() -> None:
    error = translated(
        "INVALID_ARGUMENT",
        "in ensemble 'demo_classify', in ensemble 'demo_classify_r1', "
        "tritium.invalid_input stage=image_decoder item=2: damaged\n(bad marker)",
    )
    assert isinstance(error, InvalidInput)
    assert (error.stage, error.index, error.reason) == (
        "image_decoder",
        2,
        "damaged\n(bad marker)",
    )


def test_triton_s_refusal_is_one_of_the_request() -> None:
    error = translated("INVALID_ARGUMENT", "[request id: abc] expected 2 inputs but got 1")
    assert isinstance(error, InvalidInput)
    assert (error.stage, error.reason) == ("request", "expected 2 inputs but got 1")


def test_a_dead_stub_is_unavailable_and_not_a_server_error() -> None:
    error = translated(
        "INTERNAL", "in ensemble 'demo_classify', Stub process 'demo_x_0_0' is not healthy."
    )
    assert isinstance(error, ServerUnavailable)
    assert "demo_x_0_0" in str(error)


def test_an_app_that_is_not_loaded_may_come_back() -> None:
    error = translated("NOT_FOUND", "Request for unknown model: 'x' has no available versions")
    assert isinstance(error, AppNotFound)
    assert error.retryable


def test_an_unreachable_server_is_named_with_the_cause() -> None:
    error = translated(
        "UNAVAILABLE",
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:47067: "
        "Failed to connect to remote host: Connection refused",
    )
    assert isinstance(error, ServerUnavailable)
    assert "host:8001 (Connection refused)" in str(error)


def test_a_deadline_says_how_long_it_was() -> None:
    assert "host:8001 within 0.5 s" in str(translated("DEADLINE_EXCEEDED", "Deadline Exceeded"))
