"""`tritium classify --input`: usage, exit codes, terminals, pipes and memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.batch import (
    NOBODY,
    SLOW,
    Pets,
    classify,
    run_without_server,
    write_items,
)
from tests.support.command_line import on_terminal, started, tritium_inside
from tests.support.triton import TritonServer

from tritium_client._batch.errors import BatchError
from tritium_client._batch.items import Row
from tritium_client._batch.run import Run, Tally


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
    ended = tritium_inside("classify", "--app", "demo", "--url", NOBODY, *arguments)
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
