"""Items, answers and an app for the tests of `tritium classify --input`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.command_line import tritium
from tritium_client import Client, MockApp, MockTransport, ServerError
from tritium_client._batch.command import Files, classify_files
from tritium_client._batch.run import Options

NOBODY = "127.0.0.1:1"
SLOW = "sleep0.02"
"""A text that takes the demo app's only reader 20 ms."""


def read(file: Path) -> list[dict[str, Any]]:
    *lines, rest = file.read_bytes().split(b"\n")
    assert rest == b""
    return [json.loads(line) for line in lines]


def by_id(lines: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The lines by id; fails when an id has two of them."""
    twice = [one for one, count in Counter(line["id"] for line in lines).items() if count > 1]
    assert twice == []
    return {line["id"]: line for line in lines}


def write_items(file: Path, texts: list[str]) -> Path:
    lines = [json.dumps({"id": f"n{index}", "text": text}) for index, text in enumerate(texts)]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def classify(*arguments: str | Path, stdin: str | None = None) -> Any:
    return tritium("classify", "--app", "demo", *map(str, arguments), stdin=stdin)


class Pets:
    """Answers without a server, and counts."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []

    def __call__(self, text: str | None, image: bytes | None) -> list[float]:
        self.asked.append(text)
        if text == "broken":
            raise ServerError("a bug")
        return [0.9, 0.1]

    def client(self) -> Client:
        return Client(
            app="pets", transport=MockTransport({"pets": MockApp(("cat", "dog"), answer=self)})
        )


def run_without_server(pets: Pets, items: Path, output: Path) -> int:
    with pets.client() as client:
        return classify_files(
            client, Files(str(items), str(output), overwrite=False, as_json=False), Options(4, 5, 2)
        )
