"""Client against the real tritonserver: answers, releases, threads."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.support.demo_repository import (
    APP,
    BOTH,
    LABELS,
    TEXT,
    WORDS,
    expected_label,
    write_alias,
    write_graph,
    write_repository,
)
from tests.support.triton import TritonServer, triton_server

from tritium_client import (
    AppLacksCapability,
    AppNotFound,
    Client,
    EntryPoint,
    IncompatibleRelease,
    InvalidInput,
    ServerError,
    contract,
)
from tritium_client.contract import MAX_IMAGE_BYTES

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    "given",
    [
        {"text": "four", "image": b"\x01"},
        {"text": "four"},
        {"image": b"\x02"},
        {"text": "ÄÖ".encode()},
    ],
)
def test_an_answer_for_what_is_given(client: Client, given: dict[str, Any]) -> None:
    answer = client.classify(**given)
    text = given.get("text", b"")
    data = text.encode() if isinstance(text, str) else text
    first_byte = given["image"][0] if "image" in given else 0
    assert answer.label == expected_label(1, text=data, first_byte=first_byte)
    assert answer.probability == 0.5
    assert [item.probability for item in answer.ranking] == [0.5, 0.25, 0.25]
    assert {item.label for item in answer.ranking} == set(LABELS[1])
    assert answer.probabilities[LABELS[1].index(answer.label)] == 0.5
    assert answer.probabilities.sum() == 1
    assert answer.release == 1
    assert 0 < answer.timing.total_s < 5


def test_the_ranking_is_as_long_as_asked(client: Client) -> None:
    assert len(client.classify(text="a", top_k=2).ranking) == 2
    assert len(client.classify(text="a", top_k=99).ranking) == 3
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        client.classify(text="a", top_k=0)


def test_pictures_in_every_form_get_the_same_answer(client: Client, tmp_path: Path) -> None:
    pixels = np.zeros((3, 4, 3), np.uint8)
    path = tmp_path / "black.png"
    Image.fromarray(pixels).save(path)
    forms: list[Any] = [path, str(path), path.read_bytes(), Image.open(path), pixels]
    answers = {client.classify(text="four", image=form) for form in forms}
    assert {answer.label for answer in answers} == {expected_label(1, text=b"four", first_byte=137)}
    assert len(answers) == 1  # requests differ in id and latency, which do not count as the answer


def test_the_largest_picture_reaches_the_server(client: Client) -> None:
    largest = b"\x02" + bytes(MAX_IMAGE_BYTES - 1)
    assert client.classify(image=largest, timeout_s=30).label == expected_label(1, first_byte=2)


def test_eight_threads_share_one_client(client: Client) -> None:
    def ask(length: int) -> tuple[str, str]:
        answer = client.classify(text="x" * length, image=b"\x01")
        return answer.label, answer.request_id

    lengths = [1 + number % 50 for number in range(400)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, lengths))
    assert [label for label, _ in answers] == [
        expected_label(1, text=b"x" * length, first_byte=1) for length in lengths
    ]
    assert len({request_id for _, request_id in answers}) == len(lengths)


def test_of_eight_concurrent_requests_only_the_bad_one_fails(client: Client) -> None:
    def ask(text: str) -> str:
        try:
            return client.classify(text=text).label
        except InvalidInput as error:
            return f"{error.stage} {error.index}"

    texts = ["bad" if number == 3 else "good" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, texts))
    good = expected_label(1, text=b"good")
    assert answers == [good] * 3 + ["text_tokenizer 0"] + [good] * 4


def test_labels_belong_to_the_release_that_answered(server: TritonServer, client: Client) -> None:
    assert client.classify(text="four", image=b"\x01").release == 1
    try:
        server.load(write_alias(server.repository, 2, BOTH))
        answer = client.classify(text="four", image=b"\x01", top_k=4)
        assert answer.release == 2
        assert answer.label == expected_label(2, text=b"four", first_byte=1)
        assert {item.label for item in answer.ranking} == set(LABELS[2])
        assert client.labels() == LABELS[2]
        assert client.classify(text="four").release == 1  # its alias was not switched
    finally:
        server.load(write_alias(server.repository, 1, BOTH))
    assert client.classify(text="four", image=b"\x01").label == expected_label(
        1, text=b"four", first_byte=1
    )


def test_no_answer_mixes_releases_while_they_switch(server: TritonServer, client: Client) -> None:
    def ask(_: int) -> bool:
        answer = client.classify(text="seven!!", image=b"\x04")
        return answer.label == expected_label(answer.release, text=b"seven!!", first_byte=4)

    with ThreadPoolExecutor(4) as pool:
        asked = pool.map(ask, range(400))
        for release in (2, 1, 2, 1):
            server.load(write_alias(server.repository, release, BOTH))
        assert all(asked)


@pytest.mark.parametrize("minor", [0, 99])
def test_older_and_newer_minor_versions_are_answered(
    server: TritonServer, client: Client, minor: int
) -> None:
    """Releases that were built before this SDK, and SDKs that are older than a release."""
    version = f"{contract.WIRE_VERSION.partition('.')[0]}.{minor}"
    news = {"shape_of_things_to_come": "unknown"} if minor else {}
    repository = server.repository
    try:
        server.load(write_graph(repository, 2, TEXT, wire_version=version, **news))
        server.load(write_alias(repository, 2, TEXT, wire_version=version, **news))
        answer = client.classify(text="four")
        assert (answer.release, answer.label) == (2, expected_label(2, text=b"four"))
        assert "text" in {one.modalities[0] for one in client.status().entry_points}
    finally:
        server.load(write_graph(repository, 2, TEXT))
        server.load(write_alias(repository, 1, TEXT))


def test_a_release_of_another_major_version_is_said_plainly(
    server: TritonServer, client: Client
) -> None:
    future = f"{int(contract.WIRE_VERSION.partition('.')[0]) + 1}.0"
    repository = server.repository
    try:
        server.load(write_graph(repository, 2, TEXT, wire_version=future))
        server.load(write_alias(repository, 2, TEXT, wire_version=future))
        with pytest.raises(IncompatibleRelease, match=f"version {future}"):
            client.classify(text="four")
        # With other tensor names Triton refuses the request before anybody could read the answer.
        server.load(write_alias(repository, 2, TEXT, wire_version=future, input_name="words"))
        with pytest.raises(IncompatibleRelease, match=f"version {future}"):
            client.classify(text="four")
        with pytest.raises(IncompatibleRelease, match=f"version {future}"):
            client.status()
    finally:
        server.load(write_graph(repository, 2, TEXT))
        server.load(write_alias(repository, 1, TEXT))
    assert client.classify(text="four").release == 1


def test_a_modality_that_the_app_does_not_take(client: Client) -> None:
    assert client.classify(text="four", app=WORDS).label == expected_label(1, text=b"four")
    with pytest.raises(
        AppLacksCapability, match=r"'words' answers classify text, not classify text .+ image"
    ):
        client.classify(text="four", image=b"\x01", app=WORDS)


def test_an_entry_point_that_is_not_loaded_yet_is_no_lacking_capability(
    server: TritonServer, client: Client
) -> None:
    both = contract.entry_point(WORDS, "classify", ("text", "image"))
    names = json.dumps([both, contract.entry_point(WORDS, "classify", TEXT)])
    named = {contract.PARAM_SERVER_ENTRY_POINTS.removeprefix("tritium."): names}
    try:
        server.load(write_alias(server.repository, 1, TEXT, app=WORDS, **named))
        with pytest.raises(AppNotFound, match=f"has '{both}' but it is not loaded") as caught:
            client.classify(text="four", image=b"\x01", app=WORDS)
        assert caught.value.retryable
    finally:
        server.load(write_alias(server.repository, 1, TEXT, app=WORDS))


def test_an_app_that_is_not_there(client: Client) -> None:
    for ask in (
        lambda: client.classify(text="four", app="nope"),
        lambda: client.labels("nope"),
        lambda: client.status("nope"),
    ):
        with pytest.raises(AppNotFound, match="does not serve 'nope_classify") as caught:
            ask()
        assert not caught.value.retryable


def test_an_app_has_to_be_named(server: TritonServer) -> None:
    with Client(server.url) as client, pytest.raises(ValueError, match="which app"):
        client.classify(text="four")
    with pytest.raises(ValueError, match="'Open Moji' is no app name"):
        Client(server.url, app="Open Moji")


def test_status_says_what_is_served(server: TritonServer, client: Client) -> None:
    status = client.status()
    assert (status.app, status.ready, status.release) == (APP, True, 1)
    assert status.labels == client.labels() == LABELS[1]
    assert [one.modalities for one in status.entry_points] == [
        ("text", "image"),
        ("text",),
        ("image",),
    ]
    assert (status.task, status.target, status.precision) == ("classification", "openvino", "fp32")
    assert client.status(WORDS).entry_points == (EntryPoint("classify", ("text",)),)
    assert client.apps() == (APP, "many", WORDS), "`gone` is named, and not there"
    whole = client.server_status()
    assert (whole.endpoint, whole.live, whole.ready) == (server.url, True, True)
    assert whole.version.startswith("2.")


def test_a_server_that_somebody_else_started_may_not_say_its_apps(tmp_path: Path) -> None:
    with triton_server(write_repository(tmp_path / "repo")) as stock:
        with (
            Client(stock.url) as client,
            pytest.raises(ServerError, match=r"does not say which apps.*app=\.\.\., --app"),
        ):
            client.apps()
        with Client(stock.url, app=APP) as client:
            assert client.apps() == (APP,)
        with Client(stock.url, app="nothing") as client:
            assert client.apps() == ()
