"""`tritium classify --input`: what is read, what is written, and how a run is continued."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.command_line import on_terminal, started, tritium, wait_until
from tests.support.demo_repository import expected_label, write_repository
from tests.support.triton import TritonServer, free_port, triton_server

from tritium_client import Client, MockApp, MockTransport, ServerError
from tritium_client._batch.answers import FileSink, _lock
from tritium_client._batch.command import Files, classify_files
from tritium_client._batch.errors import BatchError, WrongUsageError
from tritium_client._batch.items import Row, open_source
from tritium_client._batch.run import GONE_AFTER, Options, Run, Tally

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


# --- continuing ----------------------------------------------------------------------------------


@pytest.mark.e2e
def test_a_run_that_was_killed_is_continued(server: TritonServer, tmp_path: Path) -> None:
    count = 150
    items = write_items(tmp_path / "items.jsonl", [SLOW] * count)
    output = tmp_path / "answers.jsonl"
    arguments = ["--url", server.url, "--input", str(items), "--output", str(output)]
    with started("classify", "--app", "demo", *arguments) as process:
        wait_until(lambda: output.exists() and output.read_bytes().count(b"\n") >= 30)
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
    kept = by_id([json.loads(line) for line in output.read_bytes().splitlines(keepends=True)
                  if line.endswith(b"\n")])  # fmt: skip
    assert 30 <= len(kept) < count
    before = settled(server)

    ended = classify(*arguments)
    assert ended.returncode == 0, ended.stderr
    left = count - len(kept)
    assert ended.stderr.startswith(f"{left} answered, 0 failed, {len(kept)} already there, in ")
    lines = by_id(read(output))
    assert set(lines) == {f"n{index}" for index in range(count)}
    assert {one: lines[one] for one in kept} == kept
    assert server.answered("demo_classify_text") - before == left
    assert sorted(file.name for file in tmp_path.iterdir()) == ["answers.jsonl", "items.jsonl"]

    ended = classify(*arguments)
    assert ended.returncode == 0
    assert ended.stderr.startswith(f"0 answered, 0 failed, {count} already there, in ")
    assert server.answered("demo_classify_text") - before == left
    ended = classify(*arguments, "--overwrite")
    assert ended.stderr.startswith(f"{count} answered, 0 failed, in ")
    assert len(by_id(read(output))) == count


def settled(server: TritonServer) -> int:
    """How many requests were answered, once those of a killed client have left the server."""
    before, now = -1, server.answered("demo_classify_text")
    while before != now:
        time.sleep(0.5)
        before, now = now, server.answered("demo_classify_text")
    return now


@pytest.mark.e2e
def test_ctrl_c_keeps_what_was_answered(server: TritonServer, tmp_path: Path) -> None:
    items = write_items(tmp_path / "items.jsonl", [SLOW] * 500)
    output = tmp_path / "answers.jsonl"
    arguments = ["--url", server.url, "--input", str(items), "--output", str(output)]
    with started("classify", "--app", "demo", *arguments, "--json") as process:
        wait_until(lambda: output.exists() and output.read_bytes().count(b"\n") >= 5)
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        printed, errors = process.communicate(timeout=30)
        assert time.monotonic() - begun < 5
    assert process.returncode == 130
    assert errors == "interrupted; the same command continues where it stopped\n"
    summary = json.loads(printed)
    assert not summary["complete"]
    assert 5 <= summary["answered"] == len(by_id(read(output))) < 500


@pytest.mark.e2e
def test_errors_and_a_torn_line_are_asked_again(server: TritonServer, tmp_path: Path) -> None:
    items = write_items(tmp_path / "items.jsonl", ["a", "bad", "ab", "abc"])
    output = tmp_path / "answers.jsonl"
    output.write_text(
        '{"id": "old", "index": 9, "label": "cat"}\n'
        '{"id": "n0", "index": 0, "label": "kept"}\n'
        '{"id": "n0", "index": 0, "label": "written by somebody else"}\n'
        '{"id": "n1", "index": 1, "error": {"kind": "ServerError"}}\n'
        '{"id": "n2", "index": 2, "error": {"kind": "ServerError"}}\n'
        '{"id": "n3", "index": 3, "lab'
    )
    output.chmod(0o640)
    ended = classify("--url", server.url, "--input", items, "--output", output)
    assert ended.returncode == 3
    assert ended.stderr.startswith("2 answered, 1 failed, 1 already there, in ")
    lines = by_id(read(output))
    assert list(lines) == ["old", "n0", "n1", "n2", "n3"]
    assert lines["n0"]["label"] == "kept"
    assert lines["n1"]["error"]["stage"] == "text_tokenizer"
    assert lines["n2"]["label"] == expected_label(1, text=b"ab")
    assert output.stat().st_mode & 0o777 == 0o640


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


IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


@given(
    st.lists(st.tuples(IDS, st.sampled_from(["cat", "broken"])), unique_by=lambda one: one[0],
             min_size=1, max_size=8),
    st.data(),
)  # fmt: skip
@settings(max_examples=120, deadline=None)
def test_an_output_cut_at_any_byte_is_continued(
    tmp_path_factory: pytest.TempPathFactory, items: list[tuple[str, str]], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    source, output = folder / "items.jsonl", folder / "answers.jsonl"
    source.write_text("".join(json.dumps({"id": one, "text": text}) + "\n" for one, text in items))
    failed = any(text == "broken" for _, text in items)
    assert run_without_server(Pets(), source, output) == (3 if failed else 0)
    whole = output.read_bytes()
    cut = data.draw(st.integers(0, len(whole)), label="cut")
    output.write_bytes(whole[:cut])
    # A line is there when its object is, with or without the end of the line.
    kept = [line for line in whole.splitlines(keepends=True)
            if b'"label"' in line and whole.index(line) + len(line) - 1 <= cut]  # fmt: skip

    pets = Pets()
    assert run_without_server(pets, source, output) == (3 if failed else 0)
    assert set(by_id(read(output))) == {one for one, _ in items}
    assert output.read_bytes().startswith(b"".join(kept))
    assert len(pets.asked) == len(items) - len(kept)


def test_a_crash_at_any_moment_loses_no_answer(tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    answer, error = b'{"id": "a", "label": "cat"}\n', b'{"id": "b", "error": {}}\n'
    output.write_bytes(answer + error)
    # What is on the disk between the steps is what a process that was killed there leaves.
    sink = FileSink(output, answer="label", overwrite=False)
    assert output.read_bytes() == answer + error
    sink.write({"id": "b", "label": "dog"})
    assert output.read_bytes() == answer + b'{"id": "b", "label": "dog"}\n'
    sink.write({"id": "c", "label": "dog"})
    assert output.read_bytes().count(b"\n") == 3
    sink.close()
    # A crash before the first line leaves the new file behind; it is in nobody's way.
    (tmp_path / ".answers.jsonl.part").write_bytes(b"left behind")
    sink = FileSink(output, answer="label", overwrite=False)
    assert sink.done == {"a", "b", "c"}
    sink.finish()
    sink.close()
    assert [file.name for file in tmp_path.iterdir()] == ["answers.jsonl"]
    assert output.read_bytes().count(b"\n") == 3


def test_odd_file_names_are_continued(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    names = [b"caf\xe9.png", "日本.png".encode(), b"a b'\"\n.png"]
    for name in names:
        Path(os.fsdecode(bytes(folder) + b"/" + name)).write_bytes(b"\x01")
    output, pets = tmp_path / "answers.jsonl", Pets()
    for _ in range(2):
        assert run_without_server(pets, folder, output) == 0
    assert set(by_id(read(output))) == {os.fsdecode(name) for name in names}
    assert len(pets.asked) == 3


def test_two_runs_into_one_file(tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    for one in "ab":  # a new file, and one that is there
        sink = FileSink(output, answer="label", overwrite=False)
        with pytest.raises(BatchError, match="another run is writing"):
            FileSink(output, answer="label", overwrite=True)
        sink.write({"id": one, "label": "cat"})
        with pytest.raises(BatchError, match="another run is writing"):
            FileSink(output, answer="label", overwrite=True)
        sink.close()
    FileSink(output, answer="label", overwrite=False).close()
    assert set(by_id(read(output))) == {"a", "b"}


def test_a_lock_on_a_file_that_was_replaced_is_none(tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    output.touch()
    with output.open("a+b") as opened:  # and then another run begins and ends
        (tmp_path / "new").write_bytes(b"")
        (tmp_path / "new").replace(output)
        with pytest.raises(BatchError, match="another run is writing"):
            _lock(opened, output)


# --- servers that are not there ------------------------------------------------------------------

BEFORE = '{"id": "n0", "label": "cat"}\n{"id": "n1", "error": {}}\n{"id": "n2", "la'


@pytest.mark.e2e
@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("missing", ["server", "app"])
def test_without_server_or_app_nothing_is_touched(
    server: TritonServer, tmp_path: Path, missing: str, there: bool
) -> None:
    items = write_items(tmp_path / "items.jsonl", ["a"] * 300)
    output = tmp_path / "answers.jsonl"
    if there:
        output.write_text(BEFORE)
    url, app = (NOBODY, "demo") if missing == "server" else (server.url, "nope")
    arguments = ["--app", app, "--url", url, "--input", str(items), "--output", str(output)]
    for added in ([], ["--overwrite"], ["--json"]):
        begun = time.monotonic()
        ended = tritium("classify", *arguments, *added)
        assert time.monotonic() - begun < 10
        assert (ended.returncode, ended.stdout) == (1, "")
        (line,) = ended.stderr.splitlines()
        assert ("can be reached" if missing == "server" else "does not serve") in line
    files = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert files.pop("items.jsonl")
    assert files == ({"answers.jsonl": BEFORE} if there else {})


@pytest.mark.e2e
def test_a_server_that_dies_ends_the_run_and_another_continues_it(tmp_path: Path) -> None:
    count, port = 150, free_port()
    repository = write_repository(tmp_path / "repository")
    items = write_items(tmp_path / "items.jsonl", [SLOW] * count)
    output = tmp_path / "answers.jsonl"
    arguments = ["--url", f"127.0.0.1:{port}", "--input", str(items), "--output", str(output)]
    arguments += ["--timeout", "1"]
    with (
        triton_server(repository, port=port) as server,
        started("classify", "--app", "demo", *arguments) as process,
    ):
        wait_until(lambda: output.exists() and output.read_bytes().count(b"\n") >= 10)
        server.process.kill()
        printed, errors = process.communicate(timeout=60)
    assert (process.returncode, printed) == (1, "")
    summary, reason = errors.splitlines()
    failed = sum("error" in line for line in read(output))
    assert GONE_AFTER <= failed < GONE_AFTER + 16  # more: some of them before a last answer
    assert f"answered, {failed} failed, in " in summary
    assert reason.startswith(f"{GONE_AFTER} items in a row failed: ")
    assert reason.endswith("; the same command continues where it stopped")
    assert len(by_id(read(output))) < count
    with triton_server(repository, port=port):
        ended = classify(*arguments)
    assert ended.returncode == 0, ended.stderr
    lines = by_id(read(output))
    assert len(lines) == count
    assert all("label" in line for line in lines.values())


@pytest.mark.e2e
def test_a_server_that_is_restarted_in_the_middle_costs_no_item(tmp_path: Path) -> None:
    port = free_port()
    repository = write_repository(tmp_path / "repository")
    items = write_items(tmp_path / "items.jsonl", [SLOW] * 150)
    output = tmp_path / "answers.jsonl"
    arguments = ["--url", f"127.0.0.1:{port}", "--input", str(items), "--output", str(output)]
    with triton_server(repository, port=port) as first:
        run = started("classify", "--app", "demo", *arguments, "--timeout", "60")
        process = run.__enter__()
        wait_until(lambda: output.exists() and output.read_bytes().count(b"\n") >= 10)
        first.process.kill()
    with triton_server(repository, port=port):
        process.communicate(timeout=60)
        run.__exit__(None, None, None)
    assert process.returncode == 0
    lines = by_id(read(output))
    assert len(lines) == 150
    assert all("label" in line for line in lines.values())


def test_nothing_left_to_ask_needs_no_server(tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    output.write_text('{"id": "n0", "label": "cat"}')
    items = write_items(tmp_path / "items.jsonl", ["a"])
    ended = classify("--url", NOBODY, "--input", items, "--output", output)
    assert ended.returncode == 0
    assert ended.stderr.startswith("0 answered, 0 failed, 1 already there, in ")
    empty = tmp_path / "empty.csv"
    empty.write_text("text\n")
    ended = classify("--url", NOBODY, "--input", empty, "--output", tmp_path / "none.jsonl")
    assert ended.returncode == 0
    assert (tmp_path / "none.jsonl").read_bytes() == b""


@pytest.mark.e2e
def test_all_failed_is_3(server: TritonServer, tmp_path: Path) -> None:
    items = write_items(tmp_path / "items.jsonl", ["bad"] * 60)
    ended = classify("--url", server.url, "--input", items, "--output", tmp_path / "a.jsonl")
    assert ended.returncode == 3
    assert ended.stderr.startswith("0 answered, 60 failed, in ")


# --- usage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--input", "items.jsonl", "--text", "a"], "either --input, or --text and --image"),
        (["--input", "items.jsonl", "--image", "a"], "either --input, or --text and --image"),
        (["--text", "a", "--output", "new.jsonl"], "need --input"),
        (["--text", "a", "--overwrite"], "need --input"),
        (["--input", "items.jsonl", "--json"], "give --output FILE"),
        (["--input", "items.jsonl", "--output", "-", "--json"], "give --output FILE"),
        (["--input", "nothing.csv"], "there is no folder or file nothing.csv"),
        (["--input", "notes.txt"], "notes.txt is no input"),
        (["--input", "empty"], "empty holds no picture"),
        (["--input", "columns.csv"], "it has 'words', 'id;text'"),
        (["--input", "nothing-in-it.csv"], "it has none"),
        (["--input", "twice.csv"], "more than one column named text"),
        (["--input", "same.csv"], "lines 2 and 4 have the same id 'a'"),
        (["--input", "same.jsonl"], "lines 1 and 3 have the same id '3'"),
        (["--input", "items.jsonl", "--output", "empty"], "the output empty is a folder"),
        (["--input", "items.jsonl", "--output", "no/a.jsonl"], "folder no does not exist"),
        (["--input", "items.jsonl", "--output", "items.jsonl"], "the output is the input"),
        (["--input", "items.jsonl", "--output", "notes.txt"], "line 1 of notes.txt is none of"),
        (["--input", "items.jsonl", "--output", "foreign.jsonl"], "line 1 of foreign.jsonl is"),
        (["--input", "items.jsonl", "--concurrency", "0"], "--concurrency"),
        (["--input", "items.jsonl", "--timeout", "inf"], "timeout_s must be a positive"),
        (["--input", "items.jsonl", "--top-k", "0"], "--top-k"),
        (["--input", "items.jsonl", "--url", "nowhere"], "url must be host:port"),
    ],
)
def test_wrong_usage_ends_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    files = {
        "items.jsonl": '{"text": "a"}\n',
        "notes.txt": "my notes",
        "columns.csv": "words,id;text\na,b\n",
        "nothing-in-it.csv": "",
        "twice.csv": "text,text\na,b\n",
        "same.csv": "id,text\na,b\nc,d\na,b\n",
        "same.jsonl": '{"id": 3, "text": "a"}\n\n{"text": "a"}\n',
        "foreign.jsonl": '{"id": "a", "text": "mine"}\n',
    }
    for name, text in files.items():
        Path(name).write_text(text)
    ended = classify("--url", NOBODY, *arguments)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    shown = " ".join(ended.stderr.replace("│", " ").split())
    assert said in shown
    assert {name: Path(name).read_text() for name in files} == files
    assert {file.name for file in tmp_path.iterdir()} == {"empty", *files}


@pytest.mark.e2e
def test_a_second_use_of_an_id_in_a_pipe_ends_the_run(server: TritonServer) -> None:
    lines = "".join(json.dumps({"id": one, "text": "a"}) + "\n" for one in "abca")
    ended = classify("--url", server.url, "--input", "-", stdin=lines)
    assert ended.returncode == 2
    assert [json.loads(line)["id"] for line in ended.stdout.splitlines()] == ["a", "b", "c"]
    assert "lines 1 and 4 have the same id 'a'" in ended.stderr
    assert "Traceback" not in ended.stderr


# --- terminals, pipes, memory --------------------------------------------------------------------


@pytest.mark.e2e
def test_a_bar_on_a_terminal_only(server: TritonServer, tmp_path: Path) -> None:
    items = write_items(tmp_path / "items.jsonl", ["bad", *[SLOW] * 60])
    arguments = ["classify", "--app", "demo", "--url", server.url, "--input", str(items)]
    with on_terminal(*arguments, "--output", str(tmp_path / "a.jsonl")) as terminal:
        terminal.wait_for("/61")
        terminal.wait_for("/s, 1 failed")
        assert terminal.end() == 3
        assert "60 answered, 1 failed, in " in terminal.drawn
    with on_terminal(*arguments) as terminal:  # answers and bar would be mixed up
        terminal.wait_for('{"id": "n60"')
        assert terminal.end() == 3
        assert "/61" not in terminal.drawn


@pytest.mark.e2e
def test_a_reader_that_has_had_enough(server: TritonServer, tmp_path: Path) -> None:
    items = write_items(tmp_path / "items.jsonl", [SLOW] * 200)
    arguments = ["classify", "--app", "demo", "--url", server.url, "--input", str(items)]
    with started(*arguments) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 1
        assert process.stderr.read() == ""


def test_a_device_is_no_file_to_continue(tmp_path: Path) -> None:
    items = write_items(tmp_path / "items.jsonl", ["cat"])
    assert run_without_server(Pets(), items, Path(os.devnull)) == 0
    assert Path(os.devnull).is_char_device()


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    items = write_items(tmp_path / "items.jsonl", ["cat"])
    with pytest.raises(BatchError, match="cannot write /dev/full: No space left on device"):
        run_without_server(Pets(), items, Path("/dev/full"))


@pytest.mark.parametrize("text", ["cat", ""])
def test_rows_are_read_no_faster_than_answers_are_written(tmp_path: Path, text: str) -> None:
    taken = 0

    class Counting:
        name, resumable, done = "counting", False, frozenset[str]()
        written = 0

        def write(self, record: dict[str, Any]) -> None:
            self.written += 1
            assert taken <= self.written + 4

        def finish(self) -> None: ...

        def close(self) -> None: ...

    def rows() -> Iterator[Row]:
        nonlocal taken
        for index in range(300):
            taken += 1
            yield Row(index, str(index), index, text or None, None, None if text else "a problem")

    from tritium_client._batch.items import Source

    sink, tally = Counting(), Tally()
    with Pets().client() as client:
        Run(
            lambda items: client.classify_many(items, concurrency=4),
            Source(rows, tmp_path),
            sink,
            tally,
            lambda: None,
        )()
    assert sink.written == 300
    assert (tally.answered, tally.failed) == ((300, 0) if text else (0, 300))


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
