"""The containers: pinned, hadolint-clean, without root; both for a GPU of one Triton release."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

from tritium_builders.tensorrt.machine import BUILD_IMAGE, TRITON_RELEASE

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "docker"
NAMES = ["Dockerfile.build", "Dockerfile.serve", "Dockerfile.serve-cpu"]


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


@pytest.mark.parametrize("name", NAMES)
def test_hadolint_finds_nothing_to_say(name: str) -> None:
    assert hadolint(text(name)) == ""


def test_hadolint_would_say_it() -> None:
    assert "DL3007" in hadolint("FROM python:latest\n")


def hadolint(dockerfile: str) -> str:
    """What the linter prints of a Dockerfile."""
    program = Path(sys.executable).parent / "hadolint"
    return subprocess.run(
        [program, "--no-color", "-"], input=dockerfile, capture_output=True, text=True, check=False
    ).stdout


@pytest.mark.parametrize("name", NAMES)
def test_none_runs_as_root_and_every_copied_path_is_there(name: str) -> None:
    assert re.search(r"^USER 1000:\d+$", text(name), re.MULTILINE)
    copied = [
        line.split()[1:-1]
        for line in text(name).splitlines()
        if line.startswith("COPY") and "--from=" not in line
    ]
    assert copied
    kept = {path.partition("/")[0] for path in kept_for_docker()}
    for path in (path for paths in copied for path in paths):
        assert (ROOT / path).exists()
        assert path in kept, f"{path} is ignored by .dockerignore"


def kept_for_docker() -> list[str]:
    """What .dockerignore leaves of the checkout."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "*"
    return [line.removeprefix("!") for line in lines if line.startswith("!")]


def test_the_folders_that_a_wheel_takes_are_there_for_docker() -> None:
    """`pip install .` in a container stops at one that is not."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = document["tool"]["hatch"]["build"]["targets"]["wheel"]
    for path in (*wheel["packages"], *wheel["force-include"]):
        kept = kept_for_docker()
        assert any(f"{path}/".startswith(f"{one}/") for one in kept), f"{path} is ignored"


@pytest.mark.parametrize("name", NAMES)
def test_no_secret_is_written_into_an_image(name: str) -> None:
    assert not re.search(r"^(ENV|ARG).*(PASSWORD|TOKEN|SECRET|_KEY)", text(name), re.M | re.I)


@pytest.mark.parametrize("name", NAMES)
def test_bases_are_pinned_by_version(name: str) -> None:
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", text(name), re.MULTILINE))
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", text(name), re.MULTILINE)
    own = {stage for _, stage in stages} | {"scratch"}
    for base in {base for base, _ in stages} - own:
        image = re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], base)
        assert re.search(r":\d+\.\d+[\w.-]*$", image), image


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("Dockerfile.build", "precision"),
        ("Dockerfile.serve", "serve-gpu"),
        ("Dockerfile.serve-cpu", "serve"),
    ],
)
def test_the_extras_that_they_install_exist(name: str, extra: str) -> None:
    assert f"'.[{extra}]'" in text(name)
    assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
