"""The two containers pin one Triton release, the one that the documentation and the code name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tritium_builders.tensorrt.machine import BUILD_IMAGE, TRITON_RELEASE

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "docker"


def text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["Dockerfile.build", "Dockerfile.serve"])
def test_both_pin_one_release(name: str) -> None:
    assert f"ARG TRITON_RELEASE={TRITON_RELEASE}\n" in text(name)
    (base,) = re.findall(r"^FROM (\S+)$", text(name), re.MULTILINE)
    assert base.endswith(":${TRITON_RELEASE}-py3")
    assert f"tritium-build:{TRITON_RELEASE}" == BUILD_IMAGE


def test_the_page_says_which_tensorrt_the_pinned_release_holds() -> None:
    page = (ROOT / "docs" / "tensorrt.md").read_text(encoding="utf-8")
    (version,) = re.findall(r"^ARG TENSORRT_VERSION=(\S+)$", text("Dockerfile.build"), re.MULTILINE)
    (row,) = [line for line in page.splitlines() if line.startswith(f"| **{TRITON_RELEASE}")]
    assert f"| {version}" in row
    assert BUILD_IMAGE in page


@pytest.mark.parametrize("name", ["Dockerfile.build", "Dockerfile.serve"])
def test_neither_runs_as_root_and_every_copied_path_is_there(name: str) -> None:
    assert re.search(r"^USER 1000:\d+$", text(name), re.MULTILINE)
    copied = [line.split()[1:-1] for line in text(name).splitlines() if line.startswith("COPY")]
    assert copied
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line.removeprefix("!").partition("/")[0] for line in ignored if line.startswith("!")}
    for path in (path for paths in copied for path in paths):
        assert (ROOT / path).exists()
        assert path in kept, f"{path} is ignored by .dockerignore"


@pytest.mark.parametrize(
    ("name", "extra"), [("Dockerfile.build", "precision"), ("Dockerfile.serve", "serve-gpu")]
)
def test_the_extras_that_they_install_exist(name: str, extra: str) -> None:
    assert f"'.[{extra}]'" in text(name)
    assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
