"""`tritium bench install`: NVIDIA's binary, from PyPI, verified."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tritium_benchmarks.errors import PerfAnalyzerMissingError
from tritium_benchmarks.perf_analyzer import install
from tritium_benchmarks.perf_analyzer.install import (
    VERSION,
    PerfAnalyzer,
    find_perf_analyzer,
    install_perf_analyzer,
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> PerfAnalyzer:
    return install_perf_analyzer(tmp_path_factory.mktemp("perf") / "cache" / "perf_analyzer")


def test_it_runs(installed: PerfAnalyzer) -> None:
    done = subprocess.run(
        [installed.program, "--version"],
        env=installed.environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    assert f"Version {VERSION}" in done.stdout + done.stderr
    assert find_perf_analyzer(installed.program.parent) == installed


def test_what_is_there_is_taken_as_it_is(
    installed: PerfAnalyzer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "_download", lambda _: pytest.fail("downloaded again"))
    assert install_perf_analyzer(installed.program.parent) == installed


def test_before_it_is_installed_the_error_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(PerfAnalyzerMissingError, match="run: tritium bench install"):
        find_perf_analyzer(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("WHEEL_SHA256", "0" * 64, "has SHA-256 .*, not 0000"),
        ("REQUIREMENT", "tritonclient==0.0.0", "cannot be downloaded: ERROR"),
        ("LIBRARIES", {"libnothing-*.so": "libnothing.so"}, "has no libnothing"),
    ],
)
def test_what_goes_wrong_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object, words: str
) -> None:
    monkeypatch.setattr(install, name, value)
    folder = tmp_path / "cache" / "perf_analyzer"
    with pytest.raises(PerfAnalyzerMissingError, match=words) as caught:
        install_perf_analyzer(folder)
    assert "\n" not in str(caught.value)
    assert list(folder.parent.iterdir()) == []
