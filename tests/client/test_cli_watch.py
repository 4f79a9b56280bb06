"""`tritium status --watch`: a server that comes, goes and comes again."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from datetime import datetime
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.support.command_line import on_terminal, started, tritium_inside
from tests.support.demo_repository import write_alias, write_repository
from tests.support.triton import TritonServer, free_port, triton_server

from tritium_client import DeadlineExceeded, ServerUnavailable, contract
from tritium_client._watch import Look, _Changes

NOBODY = "127.0.0.1:1"
NAMED = f"--id={contract.format_server_id(('demo', 'words'))}"
WATCH = ["status", "--watch", "--interval", "0.2", "--timeout", "2"]


class Following:
    """What a command prints, read as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.lines: list[str] = []
        self._process = process
        self._stream = process.stdout

    def wait_for(self, text: str) -> str:
        """Read until a line has it, and return that line."""
        while text not in (line := self._stream.readline()):
            assert line, self.lines
            self.lines.append(line)
        self.lines.append(line)
        return line

    def interrupt(self) -> list[str]:
        """Press Ctrl-C, and return all that was printed."""
        self._process.send_signal(signal.SIGINT)
        self.lines += self._stream.readlines()
        assert self._process.stderr is not None
        assert (self._process.wait(20), self._process.stderr.read()) == (0, "")
        return self.lines


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("watched") / "repository")


@pytest.mark.e2e
def test_a_server_that_goes_is_shown_and_found_again(repository: Path) -> None:
    port = free_port()
    url = f"127.0.0.1:{port}"
    with (
        started(*WATCH, "--url", url) as lines,
        started(*WATCH, "--url", url, "--json") as objects,
        on_terminal(*WATCH, "--url", url, NO_COLOR="") as terminal,
    ):
        read_lines, read_objects = Following(lines), Following(objects)

        def all_show(state: str) -> None:
            read_lines.wait_for(f": {state}")
            ready = "true" if state == "ready; demo" else "false"
            read_objects.wait_for(f'"ready": {ready}, "version": ')
            terminal.wait_for("words: ready" if state == "ready; demo" else "unreachable")
            terminal.wait_for("every 0.2 s; Ctrl-C ends")

        all_show("unreachable")
        for _ in range(2):
            with triton_server(repository, port=port, arguments=[NAMED]):
                all_show("ready; demo")
            all_show("unreachable")
        assert terminal.interrupt() == 0
        check_objects([json.loads(line) for line in read_objects.interrupt()], url)
        check_lines(read_lines.interrupt(), url)


def check_objects(looks: list[dict[str, Any]], url: str) -> None:
    assert len(looks) > 10
    assert {tuple(found) for found in looks} == {
        ("time", "endpoint", "live", "ready", "version", "apps", "error")
    }
    assert {found["endpoint"] for found in looks} == {url}
    times = [found["time"] for found in looks]
    assert times == sorted(times)
    assert all(re.fullmatch(r"[\d-]+T[\d:.]+\+00:00", time) for time in times)
    states = [(found["live"], found["error"] is None) for found in looks]
    # Between coming up and being ready there may be looks of their own.
    clear = [state for state in states if state in {(False, False), (True, True)}]
    changes = [state for state, _ in groupby(clear)]
    away, there = (False, False), (True, True)
    assert changes == [away, there, away, there, away]
    assert looks[0]["error"]["kind"] == "ServerUnavailable"
    assert (looks[0]["ready"], looks[0]["version"], looks[0]["apps"]) == (False, "", [])
    full = next(found for found in looks if len(found["apps"]) == 2)
    assert [app["app"] for app in full["apps"]] == ["demo", "words"]
    assert full["version"].startswith("2.")


def check_lines(lines: list[str], url: str) -> None:
    assert all(re.match(rf"\d\d:\d\d:\d\d {re.escape(url)}: ", line) for line in lines)
    assert "unreachable: no server can be reached at" in lines[0]
    assert "unreachable: " in lines[-1]
    ready = f"{url}: ready; demo release 1 ready, words release 1 ready"
    assert sum(ready in line for line in lines) == 2
    # One for each change, though there were many looks: 3 times away, twice there, and what was
    # seen of two starts and two ends.
    assert 5 <= len(lines) <= 13


def test_other_words_for_the_same_failure_are_no_change(capsys: pytest.CaptureFixture[str]) -> None:
    show = _Changes()
    for words in ("connection refused", "connection reset", "no route"):
        show(Look(NOBODY, None, (), ServerUnavailable(words)))
    show(Look(NOBODY, None, (), DeadlineExceeded("no answer\nwithin 2 s")))
    lines = [line[len("00:00:00 ") :] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        f"{NOBODY}: unreachable: connection refused",
        f"{NOBODY}: unreachable: no answer within 2 s",
    ]


@pytest.mark.e2e
def test_a_new_release_is_a_change(repository: Path, tmp_path: Path) -> None:
    own = tmp_path / "repository"
    shutil.copytree(repository, own)
    with triton_server(own, arguments=[NAMED]) as server:
        arguments = [*WATCH, "--url", server.url, "--app", "demo"]
        with started(*arguments) as process, on_terminal(*arguments) as terminal:
            lines = Following(process)
            lines.wait_for("; demo release 1 ready\n")
            terminal.wait_for("demo: ready")
            for modalities in (("text", "image"), ("text",), ("image",)):
                server.load(write_alias(own, 2, modalities))
            terminal.wait_for("4 (bird, cat, dog, fish)")
            lines.wait_for("; demo release 2 ready\n")
            time.sleep(1)  # looks that find nothing new
            states = [line.partition("; ")[2] for line in lines.interrupt()]
    assert states[0] == "demo release 1 ready\n"
    assert states[-1] == "demo release 2 ready\n"
    assert all(before != after for before, after in pairwise(states))


@pytest.mark.e2e
def test_an_app_that_is_not_served(server: TritonServer) -> None:
    arguments = [*WATCH, "--url", server.url, "--app", "nope"]
    with started(*arguments, "--json") as process:
        lines = Following(process)
        first, second = (json.loads(lines.wait_for("AppNotFound")) for _ in range(2))
        lines.interrupt()
    assert (first["live"], first["ready"], first["apps"]) == (True, True, [])
    assert first["error"]["kind"] == second["error"]["kind"] == "AppNotFound"
    assert second["time"] > first["time"]
    with started(*arguments) as process:
        lines = Following(process)
        assert "does not serve" in lines.wait_for(": ready; ")
        time.sleep(0.5)
        assert len(lines.interrupt()) == 1


def test_looks_keep_their_interval() -> None:
    begun = time.monotonic()
    with started("status", "--watch", "--interval", "0.5", "--json", "--url", NOBODY) as process:
        following = Following(process)
        lines = [following.wait_for("ServerUnavailable") for _ in range(4)]
        following.interrupt()
    assert time.monotonic() - begun >= 1.5
    times = [datetime.fromisoformat(json.loads(line)["time"]) for line in lines]
    gaps = [(after - before).total_seconds() for before, after in pairwise(times)]
    assert all(0.3 < gap < 3 for gap in gaps), gaps


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--interval", "2"], "--interval needs --watch"),
        (["--watch", "--interval", "0"], "--interval"),
        (["--watch", "--interval", "inf"], "--interval must be a number of seconds"),
        (["--watch", "--interval", "nan"], "--interval"),
        (["--watch", "--timeout", "inf"], "timeout_s must be a positive"),
        (["--watch", "--app", "No"], "is no app name"),
        (["--watch", "--url", "nowhere"], "url must be host:port"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], said: str) -> None:
    ended = tritium_inside("status", *arguments, TRITIUM_URL=NOBODY)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in " ".join(ended.stderr.replace("│", " ").split())
    assert "Traceback" not in ended.stderr
