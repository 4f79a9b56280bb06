"""The mock transport: users' own code without a server, with the results and errors of one."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from tests.client.candidates import wait_for
from tritonclient.grpc import service_pb2

from tritium_client import (
    AppLacksCapability,
    AppNotFound,
    AsyncClient,
    AsyncMockTransport,
    Client,
    ClientClosed,
    EntryPoint,
    InvalidInput,
    MockApp,
    MockTransport,
    ServerError,
)
from tritium_client._call import Call
from tritium_client._wire import infer_request
from tritium_client.contract import PARAM_ROLLOUT

PETS = MockApp(
    labels=("cat", "dog"),
    answer=lambda text, image: [0.9, 0.1] if image is None and text == "miaow" else [0.2, 0.8],
    release=3,
)
WORDS = MockApp(
    labels=("a", "b", "c"), answer=lambda *_: [0.2, 0.3, 0.5], entry_points=(("text",),)
)


@pytest.fixture
def client() -> Client:
    return Client(app="pets", transport=MockTransport({"pets": PETS, "words": WORDS}))


def test_an_answer_is_a_classification(client: Client) -> None:
    answer = client.classify(text="miaow")
    assert (answer.label, answer.release) == ("cat", 3)
    np.testing.assert_allclose(answer.probabilities, [0.9, 0.1], rtol=1e-6)
    assert client.classify(text="miaow", image=b"\x89PNG").label == "dog"


def test_what_a_server_says_of_its_apps(client: Client) -> None:
    assert client.apps() == ("pets", "words")
    assert client.labels("words") == ("a", "b", "c")
    assert client.status("words").entry_points == (EntryPoint("classify", ("text",)),)
    assert client.server_status().ready
    assert client.endpoint == "mock:0"


def test_it_embeds_tags_and_scores_as_well() -> None:
    apps = {
        "search": MockApp(embed=lambda text, image: [0.6, 0.8] if text else [1.0, 0.0]),
        "names": MockApp(
            labels=("O", "B-PER", "I-PER"),
            tag=lambda text, image: ["O", "B-PER", "I-PER"] if image is None else ["O"] * 3,
        ),
        "prices": MockApp(labels=("price", "tax"), score=lambda text, image: [10, 1.9]),
        "moods": MockApp(
            labels=("calm", "dark", "sad"), annotate=lambda text, image: [0.5, 0.9, 0]
        ),
    }
    with Client(transport=MockTransport(apps)) as client:
        assert client.embed_text("a", app="search").vector.tolist() == pytest.approx([0.6, 0.8])
        assert client.embed_image(b"x", app="search").vector.tolist() == [1, 0]
        tagging = client.tag("met Ada  Lovelace", app="names")
        assert [one.text for one in tagging.entities] == ["Ada  Lovelace"]
        assert client.tag("met Ada Lovelace", b"x", app="names").entities == ()
        moods = client.annotate(text="a", app="moods")
        assert [one.label for one in moods.labels] == ["dark", "calm"]
        assert [one.label for one in moods.ranking] == ["dark", "calm", "sad"]
        assert moods.thresholds == {"calm": 0.5, "dark": 0.5, "sad": 0.5}
        score = client.score(text="a", app="prices")
        assert (score.value, score.names) == (10, ("price", "tax"))
        with pytest.raises(AppLacksCapability, match="'search' answers embed text or embed image"):
            client.classify(text="a", app="search")
        with pytest.raises(ServerError, match="for 2 words"):
            client.tag("two words", app="names")
        assert client.apps() == ("moods", "names", "prices", "search")


def test_a_mock_may_have_a_candidate() -> None:
    new = MockApp(labels=("dog", "cat"), answer=lambda *_: [0.6, 0.4], release=4)
    pets = replace(PETS, candidate=new, canary_percent=50)
    with Client(app="pets", transport=MockTransport({"pets": pets})) as client:
        answers = [client.classify(text="miaow") for _ in range(200)]
        assert {(one.release, one.label) for one in answers} == {(3, "cat"), (4, "dog")}
        assert 50 < sum(one.release == 4 for one in answers) < 150
        assert client.labels() == ("cat", "dog"), "of the live release"
        assert client.status().release == 3

    def broken(text: str | None, image: bytes | None) -> list[float]:
        raise ServerError("a bug")

    worse = replace(pets, candidate=replace(new, answer=broken), canary_percent=100)
    with Client(app="pets", transport=MockTransport({"pets": worse})) as client:
        assert client.classify(text="miaow").release == 3
    shadow = replace(pets, canary_percent=0, shadow_percent=100)
    with Client(app="pets", transport=MockTransport({"pets": shadow})) as client:
        assert client.classify(text="miaow").release == 3
        wait_for(lambda: client.shadow_report().requests == 1)
        assert client.shadow_report().candidate == 4


def test_a_release_s_own_ensemble_answers_as_a_server_s_does() -> None:
    """Its version is 1, whatever the release's number; and only the alias tells of a rollout."""
    new = MockApp(labels=("dog", "cat"), answer=lambda *_: [0.6, 0.4], release=4)
    transport = MockTransport({"pets": replace(PETS, candidate=new, canary_percent=50)})
    versions, rollouts = {}, {}
    for name in ("pets_classify_text", "pets_classify_text_r3", "pets_classify_text_r4"):
        request = infer_request(name, {"text": b"a"}, request_id="a")
        versions[name[5:]] = transport.send("ModelInfer", request, Call("", 5)).model_version
        asked = service_pb2.ModelConfigRequest(name=name)
        config = transport.send("ModelConfig", asked, Call("", 5)).config
        rollouts[name[5:]] = PARAM_ROLLOUT in config.parameters
    assert versions == {"classify_text": "3", "classify_text_r3": "1", "classify_text_r4": "1"}
    assert rollouts == {"classify_text": True, "classify_text_r3": False, "classify_text_r4": False}


def test_a_candidate_that_can_never_be_right_is_refused() -> None:
    new = MockApp(labels=("dog", "cat"), answer=lambda *_: [0.6, 0.4], release=4)
    with pytest.raises(ValueError, match="live release's number, 4"):
        replace(PETS, release=4, candidate=new)
    with pytest.raises(ValueError, match="between 0 and 100"):
        replace(PETS, candidate=new, canary_percent=101)
    with pytest.raises(ValueError, match="needs a candidate"):
        replace(PETS, shadow_percent=5)


def test_errors_are_those_of_a_server(client: Client) -> None:
    with pytest.raises(AppLacksCapability, match="answers classify text, not classify image"):
        client.classify(image=b"x", app="words")
    with pytest.raises(AppNotFound, match="it has"):
        client.classify(text="x", app="nothing")
    with pytest.raises(InvalidInput, match="empty"):
        client.classify(text=" ")


def test_a_mock_that_is_wrong_says_so() -> None:
    short = MockApp(labels=("cat", "dog"), answer=lambda *_: [1.0])
    broken = MockApp(labels=("cat", "dog"), answer=lambda *_: [1.0, 1 / 0])
    with Client(transport=MockTransport({"short": short, "broken": broken})) as client:
        with pytest.raises(ServerError, match=r"shape \[1\], and 2 labels"):
            client.classify(text="x", app="short")
        with pytest.raises(ServerError, match="ZeroDivisionError") as caught:
            client.classify(text="x", app="broken")
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_closed_mock_answers_nothing(client: Client) -> None:
    client.close()
    with pytest.raises(ClientClosed):
        client.classify(text="miaow")


def test_the_async_client_takes_its_own_mock() -> None:
    async def ask() -> str:
        async with AsyncClient(app="pets", transport=AsyncMockTransport({"pets": PETS})) as one:
            answers = await asyncio.gather(*(one.classify(text="miaow") for _ in range(20)))
            assert (await one.status()).release == 3
            return answers[-1].label

    assert asyncio.run(ask()) == "cat"
