"""The whole chain decides how many islands there are, not each component alone."""

from __future__ import annotations

import pytest

from tritium_builders.errors import AccuracyError, CastError, Mismatch, ParityError
from tritium_builders.precision.graphs import first_that_passes

SHARES = (0.5, 0.25, 0.1)


def mismatch(stage: str) -> Mismatch:
    return Mismatch(stage, "probabilities", "golden-1", (8,), (8,), 0.1, 0.01)


def attempt_that_passes_at(share: float, tried: list[float], error: type[ParityError]):  # type: ignore[no-untyped-def]
    def attempt(given: float) -> str:
        tried.append(given)
        if given > share:
            raise ParityError(mismatch(f"chain {given}"))
        if given == share:
            return "passed"
        raise error(mismatch("cast"))

    return attempt


@pytest.mark.parametrize("share", SHARES)
def test_the_next_share_is_tried_when_the_chain_is_too_far(share: float) -> None:
    tried: list[float] = []
    assert first_that_passes(attempt_that_passes_at(share, tried, ParityError), SHARES) == "passed"
    assert tried == [one for one in SHARES if one >= share]


def test_the_first_error_is_reported_when_none_passes() -> None:
    tried: list[float] = []
    with pytest.raises(ParityError, match=r"chain 0\.5"):
        first_that_passes(attempt_that_passes_at(0.0, tried, ParityError), SHARES)
    assert tried == list(SHARES)


def test_the_next_share_is_tried_when_top_1_loses_too_much() -> None:
    tried: list[float] = []

    def attempt(share: float) -> str:
        tried.append(share)
        if share > 0.25:
            raise AccuracyError("int8 loses 0.6 points", "Use another precision")
        return "passed"

    assert first_that_passes(attempt, SHARES) == "passed"
    assert tried == [0.5, 0.25]
    with pytest.raises(AccuracyError, match=r"0\.6 points; nothing was published\. Use another"):
        first_that_passes(attempt, SHARES[:1])


def test_nothing_more_is_tried_when_no_cast_keeps_a_share() -> None:
    tried: list[float] = []
    with pytest.raises(ParityError, match=r"chain 0\.5"):
        first_that_passes(attempt_that_passes_at(0.3, tried, CastError), SHARES)
    assert tried == [0.5, 0.25]
    with pytest.raises(CastError, match="cast"):
        first_that_passes(attempt_that_passes_at(0.7, tried, CastError), SHARES)
