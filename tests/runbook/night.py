"""Whoever is on call: goes through the page, and believes it only as far as it is true."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from tests.deploy.tiny_repository import TinyApp, publish, publish_candidate
from tests.runbook.machine import ROOT, Answer, Machine
from tests.runbook.pages import Chapter, Kind, Step, chapters
from tests.support.certificates import CLIENT, Authority

APP = "openmoji"
SERVABLES = ROOT / "builders" / "tritium_builders" / "servables"
COUNTED = {"text_encoder": {"counts": str(SERVABLES)}}
LIVE = TinyApp(app=APP, labelled=20, parameters=COUNTED)  # type: ignore[arg-type]
SLOW = TinyApp(
    app=APP,
    number=2,
    labelled=20,
    parameters=COUNTED,  # type: ignore[arg-type]
    head_parameters={"slow_s": "0.03"},
)
"""Release 2: as good as release 1, and much slower."""
GATES = "[gates]\nlatency_ratio = 100\nlatency_pairs = 20\n"
"""A gate would not let it pass."""
SHORTER = {
    "--watch 120": "--watch 0.3",
    "--drain-delay 2": "--drain-delay 0.3",
    # The SDK leaves a server out for no longer than that has been away, at most 8 seconds.
    "restart() {": "restart() { SECONDS=0;",
    "sleep 10": "sleep $((PAUSE * (SECONDS + 1)))",
}
"""What takes longer on the page than a test may."""
WITHIN_S = 20.0
HOSTS = ("models-1", "models-2", "models-3")


class Night:
    """One machine, and the page."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine = machine
        self.machine.run("PAUSE=0")
        self.chapters = chapters()
        self.followed: set[int] = set()
        """Lines of the blocks that were run."""
        self.site = machine.path("/srv/tritium")
        self._furnish(folder)
        self.authority = Authority(folder / "ca")
        self.certify(self.site, days=365)
        client = self.authority.issue("client", hosts=(), usage=CLIENT)
        shutil.copyfile(client.certificate, self.site / "client.pem")
        shutil.copyfile(self.authority.ca, self.site / "ca.pem")

    def certify(self, folder: Path, *, days: float) -> None:
        """Put the servers' certificate and its key into a folder."""
        folder.mkdir(exist_ok=True)
        issued = self.authority.issue("server", hosts=HOSTS, until=timedelta(days=days))
        shutil.copy(issued.certificate, folder / "server.pem")
        shutil.copy(issued.key, folder / "server.key")

    def chapter(self, title: str) -> Chapter:
        """One of the page."""
        return self.chapters[title]

    def follow(self, title: str, kind: Kind, index: int = 0) -> str:
        """Run commands of the page; they print what it says.

        Until they do, they are given again for as long as a person would wait.

        Returns:
            What they printed.
        """
        step = self.chapter(title).of(kind)[index]
        deadline = time.monotonic() + (WITHIN_S if kind != "do" else 0)
        while True:
            answer = self.type(step)
            if not step.shown or step.fits(answer.text):
                return answer.text
            assert time.monotonic() < deadline, (
                f"docs/runbook.md:{step.line}\n{step.code}\nprinted\n{answer.text}\nand not\n"
                f"{step.shown}"
            )
            time.sleep(0.3)

    def type(self, step: Step) -> Answer:
        """Run one block, whatever it prints."""
        self.followed.add(step.line)
        code = step.code
        for long, short in SHORTER.items():
            code = code.replace(long, short)
        return self.machine.run(code)

    def do(self, code: str) -> str:
        """What the page says nothing of: faults, and what callers do.

        Raises:
            AssertionError: it failed.
        """
        answer = self.machine.run(code)
        assert answer.status == 0, f"{code}\n{answer.text}"
        return answer.text

    def start(self, *names: str) -> None:
        """Have these servers running, and wait until they are ready."""
        for name in names:
            self.do(f"process {name} > /dev/null || start {name}")
        for name in names:
            self.do(f"up {name}")

    @contextmanager
    def callers(self) -> Iterator[dict[str, int]]:
        """Ask all the while; afterwards, what they got: outcome -> how often."""
        outcomes: dict[str, int] = {}
        self.do(
            "python -m tests.runbook.callers $TRITIUM_ENDPOINTS > calls.json 2> calls.err &\n"
            "CALLERS=$!; sleep 0.7"
        )
        yield outcomes
        self.do("kill $CALLERS; wait $CALLERS")
        errors = (self.site / "calls.err").read_text()
        assert not errors, errors
        outcomes.update(json.loads((self.site / "calls.json").read_text()))

    def _furnish(self, folder: Path) -> None:
        repository = folder / "model_repository"
        repository.mkdir()
        publish(repository, LIVE)
        publish_candidate(repository, SLOW)
        (folder / "ca").mkdir()
        shutil.copytree(repository, self.site / "model_repository")
        shutil.copytree(repository, self.site / "backup" / "model_repository")
        (self.site / "rollout.toml").write_text(GATES)
