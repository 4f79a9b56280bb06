"""Embedding, tagging and scoring against a real server; and an app that does none of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.other_verbs import APP, PRICES
from tests.support.triton import TritonServer

from tritium_client import (
    AppLacksCapability,
    AsyncClient,
    Client,
    Entity,
    EntryPoint,
    InvalidInput,
    Tag,
)
from tritium_client._tags import read_entities


@pytest.fixture
def many(server: TritonServer) -> Iterator[Client]:
    with Client(server.url, app=APP) as client:
        yield client


@pytest.mark.e2e
def test_texts_and_pictures_are_embedded_in_one_space(many: Client) -> None:
    text, image = many.embed_text("red apple"), many.embed_image(b"\x07picture")
    assert text.vector.tolist() == [9, 1]
    assert image.vector.tolist() == [7, 2]
    assert (text.release, image.release) == (1, 1)
    assert text.request_id != image.request_id
    with pytest.raises(ValueError, match="read-only"):
        text.vector[0] = 1


@pytest.mark.e2e
def test_scores_come_with_their_names(many: Client) -> None:
    answer = many.score(text="red apple", image=b"\x07")
    assert (answer.value, answer.values.tolist(), answer.names) == (18.0, [18.0, 4.5], PRICES)
    assert many.score(text="red apple").value == 9


@pytest.mark.e2e
def test_tags_say_where_their_words_are(many: Client) -> None:
    text = "göteborg met Ada Lovelace  in 🙂 Paris"
    answer = many.tag(text)
    assert [tag.tag for tag in answer.tags] == ["O", "O", "B-PER", "I-PER", "O", "O", "B-PER"]
    assert all(text[tag.start : tag.end] == tag.word for tag in answer.tags)
    found = [(entity.label, entity.text) for entity in answer.entities]
    assert found == [("PER", "Ada Lovelace"), ("PER", "Paris")]
    assert answer.entities[0].probability == pytest.approx((0.8 + 0.7) / 2)
    assert many.tag(text, b"\x01").tags == many.tag(text.encode()).tags


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda client: client.embed_text("a"), "'demo' answers classify .*, not embed text"),
        (lambda client: client.embed_image(b"a"), "not embed image"),
        (lambda client: client.tag("a"), "not tag text"),
        (lambda client: client.score(text="a", image=b"a"), r"not score text \+ image"),
        (lambda client: client.classify(text="a", app=APP), "'many' answers tag .*, not classify"),
        (lambda client: client.score(image=b"a", app=APP), "not score image"),
    ],
)
def test_what_an_app_does_not_do_is_said_plainly(
    client: Client, ask: Callable[[Client], object], message: str
) -> None:
    with pytest.raises(AppLacksCapability, match=message):
        ask(client)


@pytest.mark.e2e
def test_inputs_are_checked_before_they_travel(many: Client) -> None:
    for ask in (
        lambda: many.embed_text(" "),
        lambda: many.embed_image(b""),
        lambda: many.tag(""),
        many.score,
    ):
        with pytest.raises(InvalidInput) as caught:
            ask()
        assert (caught.value.stage, caught.value.attempts) == ("client", 0)


@pytest.mark.e2e
def test_status_lists_everything_that_an_app_does(many: Client) -> None:
    assert many.status().entry_points == (
        EntryPoint("tag", ("text", "image")),
        EntryPoint("tag", ("text",)),
        EntryPoint("score", ("text", "image")),
        EntryPoint("score", ("text",)),
        EntryPoint("embed", ("text",)),
        EntryPoint("embed", ("image",)),
    )


@pytest.mark.e2e
def test_the_async_client_does_the_same(server: TritonServer) -> None:
    async def ask() -> None:
        async with AsyncClient(server.url, app=APP) as client:
            text, tagging, score = await asyncio.gather(
                client.embed_text("red apple"), client.tag("Ada"), client.score(text="abc")
            )
            assert text.vector.tolist() == [9, 1]
            assert tagging.entities[0].text == "Ada"
            assert score.value == 3
            assert "many" in await client.apps()

    asyncio.run(ask())


TAG_NAMES = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "PAD", "B-", "I-"])


@given(st.lists(TAG_NAMES, max_size=12))
def test_every_marked_word_is_in_exactly_one_entity(names: list[str]) -> None:
    text = "x " * len(names)
    tags = [Tag("x", 2 * i, 2 * i + 1, name, 0.5) for i, name in enumerate(names)]
    entities = read_entities(text, tags)
    marked = [tag for tag in tags if tag.tag[:2] in {"B-", "I-"} and tag.tag[2:]]
    for tag in marked:
        around = [one for one in entities if one.start <= tag.start and tag.end <= one.end]
        assert [one.label for one in around] == [tag.tag[2:]]
    assert sum(entity.text.count("x") for entity in entities) == len(marked)
    begun = sum(name in {"B-PER", "B-LOC"} for name in names)
    assert len(entities) >= begun
    assert [one.start for one in entities] == sorted(one.start for one in entities)


def test_an_inside_tag_of_another_label_begins_an_entity() -> None:
    tags = [Tag("a", 0, 1, "B-PER", 0.9), Tag("b", 2, 3, "I-LOC", 0.5), Tag("c", 4, 5, "O", 1)]
    assert read_entities("a b c", tags) == (
        Entity("PER", "a", 0, 1, 0.9),
        Entity("LOC", "b", 2, 3, 0.5),
    )
