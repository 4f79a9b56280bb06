"""`tritium embed`, as a shell sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.command_line import tritium, tritium_inside
from tests.support.other_verbs import APP
from tests.support.triton import TritonServer

from tritium_client import Client, Embedding, InvalidInput, Item, MockApp, MockTransport
from tritium_client._batch.answers import vector_json


@pytest.mark.e2e
def test_one_item(server: TritonServer, tmp_path: Path) -> None:
    where = ("--app", APP, "--url", server.url)
    ended = tritium("embed", *where, "--text", "red apple")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("2 numbers: 9.0000, 1.0000\nrelease 1, ")
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"\x07")
    ended = tritium("embed", *where, "--image", str(picture), "--json")
    assert json.loads(ended.stdout)["vector"] == [7, 2]


@pytest.mark.e2e
def test_many_items(server: TritonServer, tmp_path: Path) -> None:
    where = ("--app", APP, "--url", server.url)
    (tmp_path / "seven.png").write_bytes(b"\x07")
    items = tmp_path / "items.csv"
    items.write_text("id,text,image\na,red apple,\nb,,seven.png\nc,both,seven.png\n")
    output = tmp_path / "vectors.jsonl"
    ended = tritium("embed", *where, "--input", str(items), "--output", str(output))
    assert ended.returncode == 3
    assert "2 answered, 1 failed" in ended.stderr
    first, second, third = map(json.loads, output.read_text().splitlines())
    assert (first["id"], first["vector"], first["release"]) == ("a", [9, 1], 1)
    assert second["vector"] == [7, 2]
    assert (third["error"]["kind"], third["error"]["stage"]) == ("InvalidInput", "client")
    # What classify wrote is none of embed's answers.
    output.write_text('{"id": "a", "label": "cat"}\n')
    ended = tritium("embed", *where, "--input", str(items), "--output", str(output))
    assert ended.returncode == 2
    assert output.read_text() == '{"id": "a", "label": "cat"}\n'


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--app", APP), 2, "either --text or --image"),
        (("--app", APP, "--text", "a", "--image", "b"), 2, "either --text or --image"),
        (("--app", APP, "--text", "a", "--input", "b"), 2, "either --input"),
        (("--app", APP, "--text", "a", "--overwrite"), 2, "need --input"),
        (("--app", "demo", "--text", "a"), 1, "not embed text"),
        (("--app", "nothing", "--text", "a"), 1, "does not serve"),
    ],
)
def test_what_goes_wrong_is_said_in_a_line(
    server: TritonServer, arguments: tuple[str, ...], code: int, words: str
) -> None:
    ended = tritium_inside("embed", "--url", server.url, *arguments)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert words in " ".join(ended.stderr.replace("\u2502", " ").split())


def test_embed_many_wants_one_modality_of_each_item() -> None:
    apps = {"search": MockApp(embed=lambda text, image: [1.0, 2.0] if text else [3.0, 4.0])}
    with Client(app="search", transport=MockTransport(apps)) as client:
        items: list[Item] = [{"text": "a"}, (None, b"x"), ("a", b"x"), {}]
        found = list(client.embed_many(items, concurrency=2))
    assert [one.index for one in found] == [0, 1, 2, 3]
    assert [one.unwrap().vector.tolist() for one in found[:2]] == [[1, 2], [3, 4]]
    assert all(isinstance(one.error, InvalidInput) for one in found[2:])


def test_a_vector_in_json_is_the_same_vector() -> None:
    import numpy as np

    random = np.random.default_rng(0)
    vector = (random.normal(size=500) * 10.0 ** random.integers(-30, 30, 500)).astype(np.float32)
    apps = {"search": MockApp(embed=lambda *_: vector.tolist())}
    with Client(app="search", transport=MockTransport(apps)) as client:
        answer: Embedding = client.embed_text("a")
    read = np.array(json.loads(json.dumps(vector_json(answer))), np.float32)
    assert (read == vector).all()
