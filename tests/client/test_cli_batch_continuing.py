"""`tritium classify --input`: runs that end early, and the next one that goes on."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.batch import (
    NOBODY,
    SLOW,
    Pets,
    by_id,
    classify,
    read,
    run_without_server,
    write_items,
)
from tests.support.command_line import started, tritium_inside, wait_until
from tests.support.demo_repository import expected_label, write_repository
from tests.support.triton import TritonServer, free_port, triton_server

from tritium_client._batch.answers import FileSink, _lock
from tritium_client._batch.errors import BatchError
from tritium_client._batch.run import GONE_AFTER

# --- continuing ----------------------------------------------------------------------------------


@pytest.mark.e2e
def test_a_run_that_was_killed_is_continued(server: TritonServer, tmp_path: Path) -> None:
    count = 80
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
        ended = tritium_inside("classify", *arguments, *added)
        assert time.monotonic() - begun < 10
        assert (ended.returncode, ended.stdout) == (1, "")
        (line,) = ended.stderr.splitlines()
        assert ("can be reached" if missing == "server" else "does not serve") in line
    files = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert files.pop("items.jsonl")
    assert files == ({"answers.jsonl": BEFORE} if there else {})


@pytest.mark.e2e
def test_a_server_that_dies_ends_the_run_and_another_continues_it(tmp_path: Path) -> None:
    count, port = 110, free_port()
    repository = write_repository(tmp_path / "repository", texts_only=True)
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
    repository = write_repository(tmp_path / "repository", texts_only=True)
    items = write_items(tmp_path / "items.jsonl", [SLOW] * 80)
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
    assert len(lines) == 80
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
