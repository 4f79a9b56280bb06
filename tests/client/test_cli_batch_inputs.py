"""`tritium classify --input`: a folder, a CSV or JSON lines, and what is wrong with them."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.batch import (
    by_id,
    classify,
    read,
    write_items,
)
from tests.support.demo_repository import expected_label
from tests.support.triton import TritonServer

from tritium_client._batch.errors import BatchError, WrongUsageError
from tritium_client._batch.items import Row, open_source

# --- each kind of input, against the real server -------------------------------------------------


@pytest.mark.e2e
def test_a_folder_of_pictures(server: TritonServer, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "b" / "deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "z.PNG").write_bytes(b"\x01")
    (folder / "a.jpg").write_bytes(b"\x02")
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbffour\r\n")
    (folder / "b" / "deep" / "c.webp").write_bytes(b"\x03")
    for ignored in (".hidden/d.png", ".e.png", "notes.md", "alone.txt"):
        (folder / ignored).write_bytes(b"\x04")
    output = tmp_path / "answers.jsonl"
    ended = classify("--url", server.url, "--input", folder, "--output", output, "--top-k", "2")
    assert (ended.returncode, ended.stdout) == (0, "")
    assert ended.stderr.startswith("3 answered, 0 failed, in ")
    assert ended.stderr.endswith(f"/s) -> {output}\n")
    lines = read(output)
    assert [(line["id"], line["index"]) for line in lines] == [
        ("a.jpg", 0), ("z.PNG", 1), ("b/deep/c.webp", 2),
    ]  # fmt: skip
    assert [line["label"] for line in lines] == [
        expected_label(1, text=b"four", first_byte=2),
        expected_label(1, first_byte=1),
        expected_label(1, first_byte=3),
    ]
    first = lines[0]
    assert list(first) == [
        "id", "index", "label", "probability", "ranking", "release", "request_id",
    ]  # fmt: skip
    assert (first["probability"], first["release"], len(first["ranking"])) == (0.5, 1, 2)
    assert first["ranking"][0] == {"label": first["label"], "probability": 0.5}


def test_a_folder_that_cannot_be_read_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.png").write_bytes(b"\x01")
    scandir = os.scandir

    def refuse(path: str) -> Any:  # root may read everything
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(BatchError, match=r"cannot read the folder .*closed: Permission denied"):
        list(open_source(str(tmp_path)).rows())


@pytest.mark.e2e
def test_a_csv_with_bad_lines(server: TritonServer, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "one.png").write_bytes(b"\x01")
    file = tmp_path / "items.csv"
    file.write_bytes(
        b"\xef\xbb\xbfid,colour, text ,image\r\n"
        b"both,red,four,pictures/one.png\r\n"
        b'"two\nlines",red,"a\nb",\r\n'
        b"\r\n"
        b",red,a,\r\n"  # line 7
        b"few,red,a\r\n"  # 8
        b"empty,red,,\r\n"  # 9
        b"\xff,red,a,\r\n"  # 10
        b"odd,red,caf\xe9,\r\n"  # 11
        b"gone,red,,pictures/two.png\r\n"
        b"refused,red,bad,\r\n"
        b'quote,red,"a"b,\r\n'  # 14
        b"last,red,caf\xc3\xa9,\r\n"
    )
    output = tmp_path / "answers.jsonl"
    ended = classify(
        "--url", server.url, "--input", file, "--output", output, "--json", "--concurrency", "2"
    )
    assert (ended.returncode, ended.stderr) == (3, "")
    summary = json.loads(ended.stdout)
    assert summary.pop("seconds") > 0
    assert summary == {
        "answered": 4, "failed": 7, "already_there": 0, "output": str(output), "complete": True,
    }  # fmt: skip
    lines = by_id(read(output))
    assert [line["index"] for line in lines.values()] == list(range(11))
    labels = {one: line["label"] for one, line in lines.items() if "label" in line}
    assert labels == {
        "both": expected_label(1, text=b"four", first_byte=1),
        "two\nlines": expected_label(1, text=b"a\nb"),
        "7": expected_label(1, text=b"a"),
        "last": expected_label(1, text="café".encode()),
    }
    errors = {one: line["error"] for one, line in lines.items() if "error" in line}
    assert {one: error["message"] for one, error in errors.items()} == {
        "line 8": "line 8: 3 cells, and the first line has 4",
        "empty": "line 9: neither text nor image is given; it has 'id', 'colour'",
        "line 10": "line 10: id is not valid UTF-8",
        "line 11": "line 11: text is not valid UTF-8",
        "gone": f"cannot read the image {tmp_path}/pictures/two.png: No such file or directory",
        "refused": "cannot be read,\nsadly",
        "line 14": "line 14: not CSV: ',' expected after '\"'",
    }
    kinds = {(error["kind"], error["retryable"]) for error in errors.values()}
    assert kinds == {("InvalidInput", False)}
    assert errors["refused"]["stage"] == "text_tokenizer"
    assert errors["gone"]["stage"] == "client"


BAD_LINES = [
    (b"nope", "not JSON: Expecting value at column 1"),
    (b'["a"]', "a JSON object is needed, not a list"),
    (b"null", "a JSON object is needed, not null"),
    (b'{"text": "\xff"}', "not valid UTF-8 at byte 11"),
    (b'{"text": "a"', "not JSON: Expecting ',' delimiter at column 13"),
    (b"[" * 100_000, "not JSON that can be read: maximum recursion depth exceeded"),
    (b'{"id": true, "text": "a"}', "id must be a text or a whole number, not true or false"),
    (b'{"id": 1.5, "text": "a"}', "id must be a text or a whole number, not a number"),
    (b'{"text": 5}', "text must be a text, not a number"),
    (b'{"image": ["a.png"]}', "image must be a text, not a list"),
    (b'{"image": ""}', "image is an empty path"),
    (b'{"words": "a", "text": null}', "neither text nor image is given; it has 'words'"),
]


@pytest.mark.e2e
@pytest.mark.parametrize("piped", [False, True])
def test_json_lines_with_bad_ones(
    server: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piped: bool
) -> None:
    (tmp_path / "one.png").write_bytes(b"\x01")
    if piped:  # a pipe lies in no folder: its pictures are where we stand
        monkeypatch.chdir(tmp_path)
    good = [
        {"id": 7, "text": "four", "image": "one.png", "more": [1]},
        {"text": "déjà"},
        {"id": "", "image": "one.png"},
    ]
    text = b"\xef\xbb\xbf" + b"\n".join(json.dumps(one).encode() for one in good[:2]) + b"\n\n"
    text += b"\r\n".join(line for line, _ in BAD_LINES) + b"\n" + json.dumps(good[2]).encode()
    file = tmp_path / "items.jsonl"
    file.write_bytes(text)
    ended = (
        classify("--url", server.url, "--input", "-", stdin=text.decode(errors="surrogateescape"))
        if piped
        else classify("--url", server.url, "--input", file)
    )
    assert ended.returncode == 3
    assert ended.stderr.startswith("3 answered, 12 failed, in ")
    assert ended.stderr.endswith(" -> standard output\n")
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [line["index"] for line in lines] == list(range(15))
    labels = {line["id"]: line["label"] for line in lines if "label" in line}
    assert labels == {
        "7": expected_label(1, text=b"four", first_byte=1),
        "2": expected_label(1, text="déjà".encode()),
        "16": expected_label(1, first_byte=1),
    }
    messages = [line["error"]["message"] for line in lines if "error" in line]
    for number, (message, (_, expected)) in enumerate(
        zip(messages, BAD_LINES, strict=True), start=4
    ):
        assert message.startswith(f"line {number}: {expected}")


@pytest.mark.e2e
def test_answers_come_in_the_order_of_the_items(server: TritonServer, tmp_path: Path) -> None:
    texts = ["sleep0.3", *("abc"[: 1 + number % 3] for number in range(40))]
    ended = classify("--url", server.url, "--input", write_items(tmp_path / "a.jsonl", texts))
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [line["id"] for line in lines] == [f"n{index}" for index in range(41)]
    labels = [expected_label(1, text=text.encode()) for text in texts[1:]]
    assert [line["label"] for line in lines[1:]] == labels


# --- the readers, with anything ------------------------------------------------------------------


def rows_of(tmp_path: Path, name: str, content: bytes) -> list[Row]:
    file = tmp_path / name
    file.write_bytes(content)
    return list(open_source(str(file)).rows())


def check_rows(rows: list[Row], content: bytes) -> None:
    assert [row.index for row in rows] == list(range(len(rows)))
    lines = [row.line or 0 for row in rows]
    assert lines == sorted(set(lines))
    for row in rows:
        assert 1 <= (row.line or 0) <= max(1, content.count(b"\n") + content.count(b"\r") + 1)
        if row.problem is None:
            assert row.text is not None or row.image is not None
        else:
            assert row.problem.startswith(f"line {row.line}: ")


@given(st.lists(st.binary(max_size=30) | st.sampled_from([line for line, _ in BAD_LINES])))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_json_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    content = b"\n".join(lines)
    rows = rows_of(tmp_path_factory.getbasetemp(), "any.jsonl", content)
    check_rows(rows, content)
    given_lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
    assert len(rows) == sum(bool(line.strip()) for line in given_lines)


PIECES = st.sampled_from([b'"', b",", b"\n", b"\r", b"a", b"\xff", b"\xc3\xa9", b"\0", b"text"])


@given(st.lists(PIECES | st.binary(max_size=4), max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_csv_s_rows(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    content = b"id,text\n" + b"".join(pieces)
    check_rows(rows_of(tmp_path_factory.getbasetemp(), "any.csv", content), content)
    with suppress(WrongUsageError):
        rows_of(tmp_path_factory.getbasetemp(), "any.csv", b"".join(pieces))


CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(st.lists(st.tuples(CELLS, CELLS.filter(bool)), max_size=8))
@settings(max_examples=150, deadline=None)
def test_what_csv_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, items: list[tuple[str, str]]
) -> None:
    file = io.StringIO(newline="")
    csv.writer(file).writerows([("id", "text"), *items])
    rows = rows_of(tmp_path_factory.getbasetemp(), "round.csv", file.getvalue().encode())
    assert [(row.id, row.text) for row in rows] == [
        (one or str(row.line), text) for row, (one, text) in zip(rows, items, strict=True)
    ]
