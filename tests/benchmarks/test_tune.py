"""The search for a setting, against machines whose best setting is known."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium_benchmarks.tune.search import Found, Score, search
from tritium_benchmarks.tune.space import BATCHES, DELAYS_US, Setting, questions

START = Setting(instances=1, threads=0, streams=1, max_batch=32, max_queue_delay_us=0, pin=False)


def machine(speed: Callable[[Setting], float], p99: Callable[[Setting], float] | None = None):  # type: ignore[no-untyped-def]
    """A machine without noise: what it reaches, and whether p99 stays under 100 ms."""
    tried: list[Setting] = []

    def trial(setting: Setting) -> Score:
        tried.append(setting)
        slowest = p99(setting) if p99 else 50.0
        return Score(setting, 16, speed(setting), slowest, slowest <= 100)

    return trial, tried


def found(trial: Callable[[Setting], Score], cores: int = 4, budget_s: float = 60) -> Found:
    return search(trial, START, budget_s=budget_s, cores=cores)


@given(
    st.sampled_from([1, 2, 4]), st.sampled_from([1, 2]), st.sampled_from(BATCHES),
    st.sampled_from(DELAYS_US),
)  # fmt: skip
def test_settings_whose_questions_do_not_depend_on_each_other_are_found(
    instances: int, streams: int, batch: int, delay: int
) -> None:
    wanted = (instances, streams, batch, delay)

    def speed(setting: Setting) -> float:
        has = (setting.instances, setting.streams, setting.max_batch, setting.max_queue_delay_us)
        return 10 + sum(one == other for one, other in zip(has, wanted, strict=True))

    trial, _ = machine(speed)
    best = found(trial, cores=8).best.setting
    assert (best.instances, best.streams, best.max_batch, best.max_queue_delay_us) == wanted


def test_cores_are_never_shared_out_twice() -> None:
    trial, tried = machine(lambda _: 1.0)
    found(trial, cores=4)
    assert all(one.instances * one.streams * one.threads <= 4 for one in tried)
    assert {one.threads for one in tried} == {0, 1, 2, 4}


def test_the_bound_of_p99_comes_before_speed() -> None:
    trial, _ = machine(lambda one: one.max_batch, lambda one: 10.0 * one.max_batch)
    best = found(trial).best
    assert best.setting.max_batch == 8
    assert best.within


def test_where_nothing_keeps_the_bound_the_closest_is_told() -> None:
    trial, _ = machine(lambda one: one.max_batch, lambda one: 200.0 + one.max_batch)
    best = found(trial).best
    assert best.setting.max_batch == 1
    assert not best.within


def test_a_gain_counts_only_when_it_is_more_than_noise() -> None:
    """The best of many tries looks better than it is: the finals tell."""
    lucky = iter([100.0, *[100.0] * 3, 150.0, *[100.0] * 60])
    trial, _ = machine(lambda _: next(lucky))
    chance = found(trial, cores=2)
    assert chance.best.per_second == 150
    assert not chance.pays
    trial, _ = machine(lambda one: 150.0 if one.streams == 2 else 100.0)
    real = found(trial, cores=2)
    assert real.pays
    assert real.gain is not None
    assert real.gain.value == pytest.approx(1.5)


def test_who_keeps_the_bound_pays_though_it_is_slower() -> None:
    """A release that breaks the bound is no choice, however much it answers."""
    trial, _ = machine(
        lambda one: 50.0 if one.max_batch == 8 else 100.0,
        lambda one: 90.0 if one.max_batch == 8 else 200.0,
    )
    slower = found(trial, cores=1)
    assert slower.gain is not None
    assert slower.gain.high < 1
    assert slower.pays
    assert slower.chosen.setting.max_batch == 8


def test_who_breaks_the_bound_in_the_finals_does_not_pay() -> None:
    seen: set[Setting] = set()

    def late(setting: Setting) -> float:
        again = setting in seen
        seen.add(setting)
        return 150.0 if again and setting.streams == 2 else 50.0

    trial, _ = machine(lambda one: 150.0 if one.streams == 2 else 100.0, late)
    broken = found(trial, cores=2)
    assert broken.best.setting.streams == 2
    assert broken.gain is not None
    assert broken.gain.low > 1
    assert not broken.pays
    assert broken.chosen == broken.start


def test_the_budget_ends_the_search_and_the_release_is_always_tried() -> None:
    def slow(setting: Setting) -> Score:
        time.sleep(0.05)
        return Score(setting, 16, float(setting.streams), 50.0, True)

    began = time.monotonic()
    hasty = found(slow, cores=8, budget_s=0.5)
    assert time.monotonic() - began < 1.5
    assert hasty.tried[0].setting == START
    assert 1 < len(hasty.tried) < 15
    trial, tried = machine(lambda _: 1.0)
    nothing = found(trial, budget_s=0)
    assert tried == [START]
    assert nothing.gain is None
    assert not nothing.pays


def test_each_question_starts_from_the_best_answer_so_far() -> None:
    (layout, _, batch, delay) = questions(cores=2)
    best = replace(START, streams=2, threads=1)
    assert best in layout.answers(START)
    assert {one.streams for one in batch.answers(best)} == {2}
    assert {one.max_queue_delay_us for one in delay.answers(best)} == set(DELAYS_US)
