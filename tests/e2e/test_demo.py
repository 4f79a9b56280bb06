"""`make demo`'s command, with what the session already trained."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.conftest import RECIPE, TrainedDemo, tritium
from tests.e2e.conftest import Fold

pytestmark = pytest.mark.e2e


def test_the_demo_shows_answers_accuracy_and_parity(
    demo: TrainedDemo, folds: tuple[Fold, ...], tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    release = folds[0].release
    done = tritium(
        "demo", "--recipe", str(RECIPE), "--bundle", str(demo.folder),
        "--repository", str(repository),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for step in ("train", "build", "serve", "ask", "stop"):
        assert f"{step}: " in done.stdout
    for label in release.labels:
        assert label in done.stdout
    assert f"Accuracy on {len(folds[0].bundle.validation)} held-out items" in done.stdout
    assert "fusion_head_image" in done.stdout
    # Lines are as wide as the terminal, and a long path is broken where it does not fit.
    assert f"openmojirelease1liesin{repository}" in "".join(done.stdout.split())
    assert not [
        process
        for process in psutil.process_iter(["name"])
        if process.info["name"] == "tritonserver" and process.ppid() == 1
    ]
