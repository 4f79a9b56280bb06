"""What callers can do with an error."""

from __future__ import annotations

import copy
import pickle

import pytest

import tritium_client
from tritium_client import InvalidInput, ServerUnavailable, TritiumClientError


def test_an_error_crosses_process_borders_whole() -> None:
    error = InvalidInput("image_decoder", 3, "truncated")
    error.endpoint, error.request_id, error.elapsed_s = "host:1", "abc", 0.5
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (copied.stage, copied.index, copied.reason) == ("image_decoder", 3, "truncated")
        assert (copied.endpoint, copied.request_id, copied.elapsed_s) == ("host:1", "abc", 0.5)
        assert str(copied) == str(error)


def test_invalid_input_says_who_refused_what_and_why() -> None:
    assert str(InvalidInput("text_tokenizer", 2, "not UTF-8")) == (
        "invalid input (stage text_tokenizer, item 2): not UTF-8"
    )


@pytest.mark.parametrize(
    "name", [name for name in tritium_client.__all__ if name != "ServerUnavailable"]
)
def test_only_an_absent_server_is_worth_another_try(name: str) -> None:
    value = getattr(tritium_client, name)
    if isinstance(value, type) and issubclass(value, TritiumClientError):
        assert value.retryable is False
    assert ServerUnavailable.retryable is True
