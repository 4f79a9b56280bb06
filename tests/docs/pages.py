"""Pages of the documentation, and a reader who follows them step by step."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
COMMAND_TIMEOUT_S = 300.0
START_TIMEOUT_S = 180.0
DEFAULT_URL = "localhost:8001"
"""What pages write; the reader's server listens on a port that was free."""
ADDED = {"serve": ["--free-ports", "--json"], "train": ["--reuse"]}
"""What a page's command line gets on top, so that it disturbs nobody and nothing is done twice."""


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Page
    language: str
    code: str
    line: int
    """Of its first line of code, counted from 0."""

    @property
    def commands(self) -> list[list[str]]:
        """The command lines of a shell block, as words."""
        lines = self.code.replace("&&", "\n").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        """Its path from the repository's root."""
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def blocks(self) -> list[Block]:
        """Its fenced blocks, in order."""
        return [
            Block(self, token.info.strip(), token.content, token.map[0] + 1)
            for token in self._tokens
            if token.type == "fence" and token.map is not None
        ]

    @cached_property
    def inline_code(self) -> list[str]:
        """Every `piece of code` in its text."""
        return [token.content for token in self._inline if token.type == "code_inline"]

    @cached_property
    def targets(self) -> list[str]:
        """What its links and pictures point to."""
        found = [token.attrs.get("href") or token.attrs.get("src") for token in self._inline]
        return [str(target) for target in found if target]

    @cached_property
    def _tokens(self) -> list[Token]:
        parser = MarkdownIt("commonmark").enable("table")
        return parser.parse(self.path.read_text(encoding="utf-8"))

    @property
    def _inline(self) -> Iterator[Token]:
        for token in self._tokens:
            yield from token.children or ()


PAGES = [
    Page(ROOT / "README.md"),
    Page(ROOT / "model_repository" / "README.md"),
    *(Page(path) for path in sorted((ROOT / "docs").rglob("*.md"))),
]


def page(name: str) -> Page:
    """The page with this path."""
    return next(one for one in PAGES if one.name == name)


@dataclass
class Reader:
    """Follows pages in one folder; a server that a page starts keeps running until the end."""

    folder: Path
    url: str = DEFAULT_URL
    _serving: subprocess.Popen[bytes] | None = None
    _environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def follow(self, one: Page, *, shell: bool) -> dict[str, Any]:
        """Run a page's blocks from top to bottom.

        Args:
            one: The page.
            shell: Run its `tritium` command lines as well.

        Returns:
            What its Python code left behind.
        """
        namespace: dict[str, Any] = {"__name__": f"page:{one.name}"}
        with chdir(self.folder):
            for block in one.blocks:
                if block.language == "python":
                    self._run_python(block, namespace)
                elif shell:
                    self._run_shell(block)
        return namespace

    def close(self) -> None:
        """Stop the server as a person would, and see it end well."""
        if self._serving is None:
            return
        serving, self._serving = self._serving, None
        serving.send_signal(signal.SIGTERM)
        try:
            status = serving.wait(60)
        finally:
            serving.kill()
        assert status == 0, self._events_file.read_text(encoding="utf-8")

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run_python(self, block: Block, namespace: dict[str, Any]) -> None:
        # Blank lines in front: a traceback names the line of the page.
        source = "\n" * block.line + block.code.replace(DEFAULT_URL, self.url)
        exec(compile(source, block.page.name, "exec"), namespace)

    def _run_shell(self, block: Block) -> None:
        for words in block.commands:
            if words[:2] == ["tritium", "serve"]:
                self._serve([*words, *ADDED["serve"]])
            elif "--watch" in words:
                self._watch(words)
            elif words[0] == "tritium":
                self._run([*words, *ADDED.get(words[1], [])])

    def _run(self, words: list[str]) -> None:
        done = subprocess.run(
            [str(BIN / words[0]), *words[1:]],
            env=self._environment | {"TRITIUM_URL": self.url},
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
        printed = done.stdout + done.stderr
        assert printed.strip(), f"{shlex.join(words)} printed nothing"

    def _watch(self, words: list[str]) -> None:
        """Look until something is shown, and press Ctrl-C."""
        with subprocess.Popen(
            [str(BIN / words[0]), *words[1:]],
            env=self._environment | {"TRITIUM_URL": self.url},
            stdout=subprocess.PIPE,
            text=True,
        ) as watching:
            assert watching.stdout is not None
            shown = watching.stdout.readline()
            watching.send_signal(signal.SIGINT)
            assert watching.wait(COMMAND_TIMEOUT_S) == 0
        assert "ready" in shown, f"{shlex.join(words)} showed {shown!r}"

    @property
    def _events_file(self) -> Path:
        return self.folder / "serve.jsonl"

    def _serve(self, words: list[str]) -> None:
        assert self._serving is None, "one server for each reader"
        command = [str(BIN / words[0]), *words[1:]]
        with self._events_file.open("wb") as output:
            # pdeathsig: a test run that is killed leaves no server behind.
            self._serving = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command], stdout=output, stderr=output
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._serving.poll() is None:
            for line in self._events_file.read_text(encoding="utf-8").splitlines(keepends=True):
                if line.endswith("\n") and (event := json.loads(line))["event"] == "ready":
                    self.url = event["grpc"]
                    return
            time.sleep(0.1)
        raise AssertionError(f"not ready:\n{self._events_file.read_text(encoding='utf-8')}")
