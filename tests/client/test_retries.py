"""What is sent again, how soon, and how often at the most."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium_client import (
    Client,
    DeadlineExceeded,
    InvalidInput,
    MockApp,
    MockTransport,
    RetryPolicy,
    ServerError,
    ServerUnavailable,
    TritiumClientError,
)
from tritium_client._retries import Retries


class Flaky:
    """An app that fails some of its calls."""

    def __init__(self, *failures: TritiumClientError | None) -> None:
        self._failures = list(failures)
        self.asked = 0

    def __call__(self, text: str | None, image: bytes | None) -> Sequence[float]:
        del text, image
        self.asked += 1
        failure = self._failures.pop(0) if self._failures else None
        if failure is not None:
            raise failure
        return [0.75, 0.25]


def client_of(app: Flaky, **policy: float) -> Client:
    transport = MockTransport({"pets": MockApp(labels=("cat", "dog"), answer=app)})
    retries = RetryPolicy(**{"first_pause_s": 0.001, **policy})  # type: ignore[arg-type]
    return Client(app="pets", transport=transport, retries=retries)


def unavailable() -> ServerUnavailable:
    return ServerUnavailable("the queue is full")


def test_a_retryable_failure_is_sent_again() -> None:
    app = Flaky(unavailable(), unavailable())
    with client_of(app) as client:
        assert client.classify(text="miaow").label == "cat"
    assert app.asked == 3


@pytest.mark.parametrize(
    "failure",
    [ServerError("a bug"), InvalidInput("text_tokenizer", 0, "bad"), DeadlineExceeded("too slow")],
)
def test_other_failures_are_not(failure: TritiumClientError) -> None:
    app = Flaky(failure)
    with client_of(app) as client, pytest.raises(type(failure)) as caught:
        client.classify(text="miaow")
    assert app.asked == caught.value.attempts == 1


def test_the_last_failure_is_what_the_caller_sees() -> None:
    failures = [ServerUnavailable(f"failure {number}") for number in range(5)]
    app = Flaky(*failures)
    with client_of(app, attempts=4) as client, pytest.raises(ServerUnavailable) as caught:
        client.classify(text="miaow")
    assert str(caught.value) == "failure 3"
    assert app.asked == caught.value.attempts == 4
    assert caught.value.request_id
    assert caught.value.elapsed_s


def test_one_attempt_switches_retries_off() -> None:
    app = Flaky(unavailable())
    with client_of(app, attempts=1) as client, pytest.raises(ServerUnavailable):
        client.classify(text="miaow")
    assert app.asked == 1


def test_no_retry_outlives_the_deadline() -> None:
    app = Flaky(*(unavailable() for _ in range(50)))
    with (
        client_of(app, attempts=50, first_pause_s=5.0, longest_pause_s=5.0, burst=50) as client,
        pytest.raises(ServerUnavailable) as caught,
    ):
        client.classify(text="miaow", timeout_s=0.2)
    assert caught.value.elapsed_s is not None
    assert caught.value.elapsed_s < 0.25


def test_what_refused_the_input_is_not_asked_twice() -> None:
    app = Flaky()
    with client_of(app) as client, pytest.raises(InvalidInput):
        client.classify(text="")
    assert app.asked == 0


@given(st.integers(1, 400), st.floats(0, 1), st.integers(0, 20), st.integers(2, 6))
def test_retries_never_add_more_than_the_budget(
    calls: int, budget: float, burst: int, attempts: int
) -> None:
    """A server that refuses everything: the load that retries add to it is bounded."""
    retries = Retries(RetryPolicy(attempts=attempts, budget=budget, burst=burst))
    sent_again = 0
    for _ in range(calls):
        retries.earn()
        attempt = 1
        while retries.pause_s(unavailable(), attempt, 1e9) is not None:
            sent_again += 1
            attempt += 1
        assert attempt <= attempts
    assert sent_again <= burst + budget * calls


@given(st.integers(1, 30), st.floats(0.001, 1), st.floats(1, 10), st.integers(0, 2**32))
def test_pauses_double_up_to_their_bound(
    attempt: int, first: float, longest: float, seed: int
) -> None:
    policy = RetryPolicy(attempts=100, first_pause_s=first, longest_pause_s=longest)
    pause = Retries(policy, random.Random(seed)).pause_s(unavailable(), attempt, 1e9)
    assert pause is not None
    assert 0 <= pause <= min(longest, first * 2 ** (attempt - 1))


@pytest.mark.parametrize(
    ("field", "value"),
    [("attempts", 0), ("budget", 1.5), ("budget", -0.1), ("burst", -1), ("first_pause_s", 0),
     ("longest_pause_s", 0.01)],
)  # fmt: skip
def test_policies_that_can_never_be_right_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        RetryPolicy(**{field: value})  # type: ignore[arg-type]
