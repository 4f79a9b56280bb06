"""A rollout on the wire: which keys a candidate takes, and what a config may say of it."""

from __future__ import annotations

import itertools
import json
import logging
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium_client import contract
from tritium_client._rollout import Route, names_a_release
from tritium_client.contract import Modality, Rollout, format_rollout, parse_rollout, rollout_bucket

SHARES = st.floats(0, 100)
KEYS = st.text(min_size=1)
SALTS = KEYS | st.just("")
ROLLOUTS = st.builds(Rollout, st.integers(1, 10**9), SHARES, SHARES, SALTS)


@given(SALTS, KEYS, SHARES, SHARES)
def test_a_key_that_is_taken_at_one_share_is_taken_at_every_larger_one(
    salt: str, key: str, one: float, other: float
) -> None:
    less, more = sorted((one, other))
    assert Rollout(2, less, salt=salt).takes(key) <= Rollout(2, more, salt=salt).takes(key)
    assert Rollout(2, 0, less, salt=salt).shadows(key) <= Rollout(2, 0, more, salt=salt).shadows(
        key
    )


@given(SALTS, KEYS)
def test_no_key_is_taken_at_0_and_every_one_at_100(salt: str, key: str) -> None:
    assert not Rollout(2, 0, 0, salt).takes(key)
    assert not Rollout(2, 0, 0, salt).shadows(key)
    assert Rollout(2, 100, 100, salt).takes(key)
    assert Rollout(2, 100, 100, salt).shadows(key)
    assert 0 <= rollout_bucket(salt, key) < 100


@settings(deadline=None, max_examples=50)
@given(SALTS, st.floats(0.5, 99.5), st.integers(0, 10**6))
def test_the_share_of_keys_is_the_one_that_was_asked_for(
    salt: str, percent: float, first: int
) -> None:
    """Keys of users are numbered one after the other, and still fall evenly."""
    keys, share = 2000, percent / 100
    # Six standard errors: one in a billion runs would fail by chance.
    error = 6 * math.sqrt(share * (1 - share) / keys)
    rollout = Rollout(2, percent, percent, salt)
    numbered = [f"user-{first + number}" for number in range(keys)]
    assert abs(sum(map(rollout.takes, numbered)) / keys - share) <= error
    assert abs(sum(map(rollout.shadows, numbered)) / keys - share) <= error


def test_shadows_fall_on_other_keys_and_another_salt_takes_other_keys() -> None:
    keys = [f"user-{number}" for number in range(2000)]
    half, salted = Rollout(2, 50, 50), Rollout(2, 50, 50, "b")
    for one, other in ((half.takes, half.shadows), (half.takes, salted.takes)):
        both = sum(one(key) and other(key) for key in keys)
        assert 400 < both < 600, "a quarter: neither the same keys nor the other half"


@given(ROLLOUTS)
def test_what_is_written_is_read(rollout: Rollout) -> None:
    assert parse_rollout(format_rollout(rollout)) == rollout
    assert parse_rollout(format_rollout(rollout)) == rollout
    newer = json.loads(format_rollout(rollout)) | {"shape_of_things_to_come": 1}
    assert parse_rollout(json.dumps(newer)) == rollout


def test_the_bucket_of_a_key_is_the_same_for_good() -> None:
    """Programs in other languages compute it, too: docs/other-languages.md."""
    assert rollout_bucket("", "user-42") == pytest.approx(82.91026475593904)
    assert rollout_bucket("b", "user-42") == pytest.approx(81.96984411157867)
    assert rollout_bucket("", "käse 🧀") == pytest.approx(86.47150103044919)


MALFORMED = [
    "no JSON",
    "[]",
    "{}",
    "2",
    '{"candidate": 0}',
    '{"candidate": "2"}',
    '{"candidate": 2.5}',
    '{"candidate": true}',
    '{"candidate": 2, "canary_percent": 101}',
    '{"candidate": 2, "canary_percent": -1}',
    '{"candidate": 2, "canary_percent": NaN}',
    '{"candidate": 2, "canary_percent": null}',
    '{"candidate": 2, "shadow_percent": "all"}',
    '{"candidate": 2, "shadow_percent": ' + "9" * 400 + "}",
    '{"candidate": 2, "salt": 5}',
    '{"candidate": 2, "salt": "\\ud800"}',
    "[" * 100_000,
]


@pytest.mark.parametrize("text", MALFORMED, ids=lambda text: text[:60])
def test_what_is_no_rollout_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_rollout(text)


@given(st.text())
def test_no_text_breaks_the_reading(text: str) -> None:
    try:
        rollout = parse_rollout(text)
    except ValueError:
        return
    assert rollout is None or rollout.takes("key") in {True, False}


def test_nothing_is_no_rollout() -> None:
    assert parse_rollout("") is None


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_route_is_read_again_when_it_is_old(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    route = Route("pets_classify", clock)
    assert route.is_due
    route.failed()
    assert route.is_due, "nothing is known yet"
    route.learned(format_rollout(Rollout(2, 10)))
    assert not route.is_due
    clock.now += contract.ROLLOUT_REFRESH_S
    assert route.is_due
    route.failed()
    assert not route.is_due, "a server that does not say is not asked by every call"
    assert route.rollout == Rollout(2, 10)
    route.expire()
    assert route.is_due
    with caplog.at_level(logging.WARNING, "tritium_client"):
        route.learned("{}")
        route.learned("{}")
    assert route.rollout is None
    assert len(caplog.records) == 1
    assert "the rollout of pets_classify is left out" in caplog.text


def test_releases_are_told_from_aliases_by_their_name() -> None:
    every: list[tuple[Modality, ...]] = [("text", "image"), ("text",), ("image",)]
    for verb, modalities in itertools.product(contract.VERBS, every):
        for app in ("pets", "pets_r2", "r2", "x_r"):
            assert not names_a_release(contract.entry_point(app, verb, modalities))
            assert names_a_release(contract.release_entry_point(app, verb, modalities, 12))
    assert not names_a_release("pets_text_encoder_0123456789ab")
