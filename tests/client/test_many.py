"""classify_many: any number of items, a few at a time, one result or error for each."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium_client import (
    AsyncClient,
    AsyncMockTransport,
    Classification,
    Client,
    ClientClosed,
    InvalidInput,
    ItemResult,
    MockApp,
    MockTransport,
    ServerError,
)


class Busy:
    """Answers after a moment, and remembers how many calls it had at once."""

    def __init__(self, pause_s: float = 0.0) -> None:
        self.pause_s = pause_s
        self.most = self.asked = self._now = 0
        self._lock = threading.Lock()

    def __call__(self, text: str | None, image: bytes | None) -> list[float]:
        del image
        with self._lock:
            self.asked += 1
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self.pause_s * (3 if text == "slow" else 1))
        with self._lock:
            self._now -= 1
        if text == "broken":
            raise ServerError("a bug")
        return [0.9, 0.1] if text == "cat" else [0.1, 0.9]


def client_of(app: Busy) -> Client:
    apps = {"pets": MockApp(labels=("cat", "dog"), answer=app)}
    return Client(app="pets", transport=MockTransport(apps))


WORDS = st.lists(st.sampled_from(["cat", "dog", "broken", ""]), max_size=40)


def check(words: list[str], found: list[ItemResult[Classification]]) -> None:
    assert sorted(one.index for one in found) == list(range(len(words)))
    for one in found:
        assert one.error is None or one.error.index == one.index
        word = words[one.index]
        assert (one.result is None) != (one.error is None)
        if word == "broken":
            assert isinstance(one.error, ServerError)
        elif not word:
            assert isinstance(one.error, InvalidInput)
        else:
            assert one.unwrap().label == word


@given(WORDS, st.integers(1, 8), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_item_gets_its_own_result_or_error(
    words: list[str], concurrency: int, ordered: bool
) -> None:
    app = Busy()
    with client_of(app) as client:
        items = [{"text": word} if word == "cat" else (word, None) for word in words]
        found = list(client.classify_many(items, concurrency=concurrency, ordered=ordered))
    check(words, found)
    if ordered:
        assert [one.index for one in found] == list(range(len(words)))
    assert app.most <= concurrency


@given(WORDS, st.integers(1, 8), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_async_client_does_the_same(
    words: list[str], concurrency: int, ordered: bool, streamed: bool
) -> None:
    async def stream() -> AsyncIterator[dict[str, str]]:
        for word in words:
            await asyncio.sleep(0)
            yield {"text": word}

    async def ask() -> list[ItemResult[Classification]]:
        apps = {"pets": MockApp(labels=("cat", "dog"), answer=Busy())}
        async with AsyncClient(app="pets", transport=AsyncMockTransport(apps)) as client:
            items: Any = stream() if streamed else [{"text": word} for word in words]
            many = client.classify_many(items, concurrency=concurrency, ordered=ordered)
            return [one async for one in many]

    found = asyncio.run(ask())
    check(words, found)
    if ordered:
        assert [one.index for one in found] == list(range(len(words)))


def test_calls_run_side_by_side() -> None:
    app = Busy(pause_s=0.05)
    with client_of(app) as client:
        assert len(list(client.classify_many([("cat", None)] * 12, concurrency=4))) == 12
    assert app.most == 4


def test_unordered_results_come_as_they_are_ready() -> None:
    app = Busy(pause_s=0.1)
    with client_of(app) as client:
        items = [("slow", None), ("cat", None), ("dog", None)]
        found = [one.index for one in client.classify_many(items, concurrency=3, ordered=False)]
    assert found[-1] == 0


@pytest.mark.parametrize("ordered", [True, False])
def test_items_are_read_no_faster_than_results_are_taken(ordered: bool) -> None:
    read = 0

    def endless() -> Iterator[tuple[str, None]]:
        nonlocal read
        while True:
            read += 1
            yield "cat", None

    with client_of(Busy()) as client:
        many = client.classify_many(endless(), concurrency=4, ordered=ordered)
        for taken, found in enumerate(many, start=1):
            assert found.unwrap().label == "cat"
            assert read <= taken + 4
            if taken == 100:
                break


def test_an_item_of_another_kind_is_its_own_error() -> None:
    with client_of(Busy()) as client:
        items: list[Any] = ["cat", {"words": "cat"}, ("cat",), {}, ("cat", None)]
        found = list(client.classify_many(items))
    messages = [str(one.error) for one in found[:4]]
    assert "item 0): an item is a mapping with text and image or a pair, not str" in messages[0]
    assert "item 1): an item has text and image, not 'words'" in messages[1]
    assert "not tuple" in messages[2]
    assert "nothing was given" in messages[3]
    assert found[4].unwrap().label == "cat"
    with pytest.raises(InvalidInput):
        found[0].unwrap()


def test_an_iterable_that_fails_ends_the_iteration() -> None:
    def broken() -> Iterator[tuple[str, None]]:
        yield "cat", None
        raise OSError("the disk is gone")

    with client_of(Busy()) as client, pytest.raises(OSError, match="the disk is gone"):
        list(client.classify_many(broken(), concurrency=1))


def test_wrong_arguments_are_refused_at_once() -> None:
    client = client_of(Busy())
    with pytest.raises(ValueError, match="concurrency"):
        client.classify_many([], concurrency=0)
    with pytest.raises(ValueError, match="top_k"):
        client.classify_many([], top_k=0)
    client.close()
    with pytest.raises(ClientClosed):
        client.classify_many([])


def test_closing_the_client_ends_the_iteration() -> None:
    app = Busy(pause_s=0.05)
    client = client_of(app)
    many = client.classify_many([("cat", None)] * 100, concurrency=2)
    next(iter(many))
    client.close()
    with pytest.raises(ClientClosed):
        list(many)
    assert app.asked < 100
