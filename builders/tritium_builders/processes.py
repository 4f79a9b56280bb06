"""Work that is done in a process of its own: a request in, an answer out, both JSON files.

Tools that patch what is imported, take all memory or crash natively do it to that process alone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from tritium_builders.errors import CompileError, MissingExtraError

Answer = TypeVar("Answer", bound=BaseModel)

_MISSING = re.compile(r"^ModuleNotFoundError: No module named '([^'.]+)", re.MULTILINE)


def ask_process(
    module: str,
    request: BaseModel,
    answer: type[Answer],
    *,
    what: str,
    extra: str,
    timeout_s: float,
    when_slow: str,
    environment: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] = lambda _: None,
) -> tuple[Answer, str]:
    """Run `python -m MODULE REQUEST.json ANSWER.json` and read the answer.

    Args:
        module: Reads the request, writes the answer; what it prints is its log.
        request: What it is asked.
        answer: What it answers with.
        what: For errors: who works on what, for instance `text_encoder: TensorRT`.
        extra: Which extra brings what it imports.
        timeout_s: Seconds before it is killed.
        when_slow: For errors: what to do when it was.
        environment: Variables besides this process's own.
        on_line: Told each line that it prints, at once.

    Returns:
        The answer, and all that it printed.

    Raises:
        MissingExtraError: when a package that it imports is not installed.
        CompileError: when it ends without an answer, or not in time; with its last words.
    """
    with tempfile.TemporaryDirectory(prefix="tritium-process-") as folder:
        asked, answered = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked.write_text(request.model_dump_json(), encoding="utf-8")
        command = [sys.executable, "-m", module, str(asked), str(answered)]
        status, log = _run(command, timeout_s, {**os.environ, **(environment or {})}, on_line)
        if status is None:
            raise CompileError(f"{what} did not finish within {timeout_s:g} s; {when_slow}")
        if answered.is_file():
            return answer.model_validate_json(answered.read_bytes()), log
    missing = _MISSING.search(log)
    if missing is not None:
        raise MissingExtraError(missing[1], extra)
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    last = " | ".join(lines[-3:])[:600] or "it said nothing"
    raise CompileError(f"{what}'s process ended with status {status}: {last}")


def _run(
    command: list[str],
    timeout_s: float,
    environment: Mapping[str, str],
    on_line: Callable[[str], None],
) -> tuple[int | None, str]:
    """Run a command; its status, None when it was killed for being slow, and what it printed."""
    lines = []
    slow = threading.Event()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
    ) as process:

        def give_up() -> None:
            slow.set()
            process.kill()

        timer = threading.Timer(timeout_s, give_up)
        timer.start()
        try:
            for line in process.stdout or ():
                lines.append(line)
                on_line(line)
            status = process.wait()
        finally:
            timer.cancel()
            process.kill()  # no-op once it has ended; an interrupted build leaves none behind
    return None if slow.is_set() else status, "".join(lines)
