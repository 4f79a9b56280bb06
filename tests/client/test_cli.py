"""The `tritium` command, as a shell sees it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.command_line import tritium, tritium_inside
from tests.support.demo_repository import LABELS, expected_label
from tests.support.triton import TritonServer, free_port

from tritium_client import cli


def only_line(text: str) -> str:
    assert text.endswith("\n")
    assert text.count("\n") == 1, text
    return text.rstrip()


def test_help_lists_the_verbs_with_examples() -> None:
    ended = tritium("--help")
    assert ended.returncode == 0
    assert {"classify", "status"} <= set(ended.stdout.split())
    for verb in ("classify", "status"):
        ended = tritium(verb, "--help")
        assert ended.returncode == 0
        assert f"tritium {verb} --app openmoji" in ended.stdout
        assert "Exit codes" in ended.stdout


def test_version() -> None:
    ended = tritium("--version")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert only_line(ended.stdout).startswith("tritium 0.")


@pytest.mark.parametrize(
    "arguments",
    [
        ["classify", "--text", "a"],
        ["classify", "--app", "demo"],
        ["classify", "--app", "Demo", "--text", "a"],
        ["classify", "--app", "demo", "--text", "a", "--top-k", "0"],
        ["classify", "--app", "demo", "--text", "a", "--timeout", "-1"],
        ["classify", "--app", "demo", "--text", "a", "--timeout", "nan"],
        ["classify", "--app", "demo", "--text", "a", "--route-key", ""],
        ["classify", "--app", "demo", "--input", ".", "--route-key", ""],
        ["classify", "--app", "demo", "--text", "a", "--url", "http://localhost:8001"],
        ["no-such-verb"],
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    ended = tritium_inside(*arguments)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr


def test_a_failure_is_one_line_on_stderr_and_ends_with_1() -> None:
    url = f"127.0.0.1:{free_port()}"
    for arguments in (["classify", "--app", "demo", "--text", "a", "--json"], ["status"]):
        ended = tritium(*arguments, "--url", url)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert url in only_line(ended.stderr)
    ended = tritium("classify", "--app", "demo", "--image", "no.png", "--url", url)
    assert ended.returncode == 1
    assert "no.png: No such file" in only_line(ended.stderr)


def test_a_traceback_is_shown_when_asked_for() -> None:
    ended = tritium("status", "--url", f"127.0.0.1:{free_port()}", TRITIUM_DEBUG="1")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr


def run_main(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run main() in a fresh interpreter, after `code`."""
    return subprocess.run(
        [sys.executable, "-c", f"{code}\nfrom tritium_client.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_typer_one_line_says_what_to_install() -> None:
    ended = run_main("import sys; sys.modules['typer'] = None")
    assert ended.returncode == 1
    assert only_line(ended.stderr) == (
        "the command line needs typer; run: pip install 'tritium[cli]'"
    )


BROKEN_ROOM = """
import importlib.metadata as metadata
from tritium_client import cli

class Broken:
    name = "broken"
    def load(self):
        raise {error}

found = tuple(metadata.entry_points(group=cli.GROUP))
cli.entry_points = lambda group: (*found, Broken())
"""


def test_a_room_without_its_extra_leaves_the_others_alone() -> None:
    broken = BROKEN_ROOM.format(error="ModuleNotFoundError('No module named torch')")
    ended = run_main(broken, "--help")
    assert ended.returncode == 0
    assert "classify" in ended.stdout
    assert "broken (No module named torch)" in " ".join(ended.stdout.split())
    ended = run_main(broken, "verb-of-broken")
    assert ended.returncode == 2
    assert "not available: the verbs of broken (No module named torch)" in ended.stderr
    ended = run_main(broken, "classify", "--top-k", "0")
    assert ended.returncode == 2
    assert "not available: the verbs of broken" not in ended.stderr


def test_a_bug_in_a_room_is_not_hidden() -> None:
    ended = run_main(BROKEN_ROOM.format(error="RuntimeError('a bug')"), "--help")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr


def test_our_errors_are_told_from_bugs_by_their_module() -> None:
    from tritium_builders.errors import BundleError
    from tritium_client import InvalidInput

    assert cli._is_ours(InvalidInput("client", 0, "empty"))
    assert cli._is_ours(BundleError(file="a", problem="b", fix="c"))
    assert not cli._is_ours(ValueError("a bug"))


@pytest.mark.e2e
def test_classify(server: TritonServer, tmp_path: Path) -> None:
    picture = tmp_path / "picture"
    picture.write_bytes(b"\x01")
    label = expected_label(1, text=b"four", first_byte=1)
    arguments = ["classify", "--text", "four", "--image", str(picture), "--top-k", "2"]
    ended = tritium(*arguments, "--app", "demo", "--url", server.url)
    assert (ended.returncode, ended.stderr) == (0, "")
    first, second, last = ended.stdout.splitlines()
    assert first.split()[:2] == [label, "50.0%"]
    assert second.split()[1] == "25.0%"
    assert last.startswith("release 1, ")

    ended = tritium(*arguments, "--json", TRITIUM_APP="demo", TRITIUM_URL=server.url)
    answer: dict[str, Any] = json.loads(only_line(ended.stdout))
    assert (answer["label"], answer["probability"], answer["release"]) == (label, 0.5, 1)
    assert [item["probability"] for item in answer["ranking"]] == [0.5, 0.25]


@pytest.mark.e2e
def test_what_the_server_refuses_is_one_line(server: TritonServer) -> None:
    ended = tritium("classify", "--app", "demo", "--text", "bad", "--url", server.url)
    assert ended.returncode == 1
    assert only_line(ended.stderr) == (
        "invalid input (stage text_tokenizer, item 0): cannot be read, sadly"
    )


@pytest.mark.e2e
def test_status(server: TritonServer) -> None:
    ended = tritium("status", "--url", server.url)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.search(r"^demo: ready, answers in \d+ ms$", ended.stdout, re.MULTILINE)
    assert "words: ready" in ended.stdout
    assert f"3 ({', '.join(LABELS[1])})" in ended.stdout

    ended = tritium("status", "--url", server.url, "--app", "words", "--json")
    status: dict[str, Any] = json.loads(only_line(ended.stdout))
    assert (status["live"], status["ready"]) == (True, True)
    (app,) = status["apps"]
    assert (app["app"], app["release"], app["target"]) == ("words", 1, "openvino")
    assert app["entry_points"] == [{"verb": "classify", "modalities": ["text"]}]
    assert app["labels"] == list(LABELS[1])
    assert app["probe"]["slowest_ms"] > 0
    assert app["probe"]["error"] is None
    ended = tritium("status", "--url", server.url, "--app", "words", "--json", "--no-probe")
    assert json.loads(ended.stdout)["apps"][0]["probe"] is None

    ended = tritium("status", "--url", server.url, "--app", "nope")
    assert ended.returncode == 1
    assert "does not serve" in only_line(ended.stderr)
