"""Work in a process of its own: its answer, its words, and every way to end without one."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tritium_builders.errors import CompileError, MissingExtraError
from tritium_builders.processes import ask_process
from tritium_builders.release import Record


class Question(Record):
    number: int


class Reply(Record):
    double: int


ANSWER = """
import json, sys
print("thinking", flush=True)
number = json.load(open(sys.argv[1]))["number"]
json.dump({"double": 2 * number}, open(sys.argv[2], "w"))
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "asked.py"


def ask(**changes: object) -> tuple[Reply, str]:
    arguments = {"what": "doubling", "extra": "build", "timeout_s": 30.0, "when_slow": "ask less"}
    return ask_process("asked", Question(number=21), Reply, **(arguments | changes))  # type: ignore[arg-type]


def test_the_answer_and_every_line_come_back(module: Path) -> None:
    module.write_text(ANSWER)
    heard: list[str] = []
    reply, log = ask(on_line=heard.append)
    assert (reply.double, log, heard) == (42, "thinking\n", ["thinking\n"])


def test_a_missing_package_names_its_extra(module: Path) -> None:
    module.write_text("import polygraphy_that_is_not_here.backend")
    with pytest.raises(MissingExtraError, match=r"pip install 'tritium\[build\]'") as caught:
        ask()
    assert caught.value.package == "polygraphy_that_is_not_here"


def test_a_crash_is_reported_with_its_last_words(module: Path) -> None:
    module.write_text("import os\nprint('no memory left', flush=True)\nos.abort()")
    with pytest.raises(CompileError, match=r"doubling's process ended with status -6: .*no memory"):
        ask()


def test_what_takes_too_long_is_killed(module: Path, tmp_path: Path) -> None:
    module.write_text(
        f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "time.sleep(60)"
    )
    with pytest.raises(CompileError, match=r"doubling did not finish within 2 s; ask less"):
        ask(timeout_s=2.0)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()


def test_an_interrupted_caller_leaves_no_process_behind(module: Path) -> None:
    module.write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)")
    seen: list[str] = []

    def interrupt(line: str) -> None:
        seen.append(line.strip())
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        ask(on_line=interrupt)
    assert time.monotonic() - began < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int(seen[0]), 0)
