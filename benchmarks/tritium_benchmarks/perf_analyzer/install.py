"""Bring NVIDIA's perf_analyzer from PyPI into the user's cache.

    tritium bench install

The newest build for a glibc of 2.35 or 2.36 is the one in the manylinux1 wheel of
tritonclient 2.51.0; it runs on newer ones as well, so everybody measures with the same binary. It
needs two libraries that nvidia-pytriton ships under other names.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import platformdirs

from tritium_benchmarks.errors import PerfAnalyzerMissingError

VERSION = "2.51.0"
REQUIREMENT = f"tritonclient=={VERSION}"
PLATFORM = "manylinux1_x86_64"
WHEEL_SHA256 = "c485bb0123bdf310f90bc8b03d3489b28df2ffed55b30c7eee0b795b48113d52"
MEMBER = f"tritonclient-{VERSION}.data/data/bin/perf_analyzer"
LIBRARIES = {"libb64-*.so.0d": "libb64.so.0d", "libcudart-*.so.12*": "libcudart.so.12"}
"""As nvidia-pytriton names them -> as perf_analyzer looks for them."""
DOWNLOAD_TIMEOUT_S = 300


@dataclass(frozen=True)
class PerfAnalyzer:
    """An installed perf_analyzer."""

    program: Path
    libraries: Path
    """A folder that must be on LD_LIBRARY_PATH."""

    def environment(self) -> dict[str, str]:
        """The environment in which it runs."""
        return {**os.environ, "LD_LIBRARY_PATH": str(self.libraries)}


def default_folder() -> Path:
    """Where it is installed unless told otherwise."""
    return platformdirs.user_cache_path("tritium") / "perf_analyzer" / VERSION


def find_perf_analyzer(folder: Path | None = None) -> PerfAnalyzer:
    """The installed perf_analyzer.

    Args:
        folder: Where it was installed; None for the user's cache.

    Raises:
        PerfAnalyzerMissingError: it was not.
    """
    folder = folder or default_folder()
    found = PerfAnalyzer(folder / "perf_analyzer", folder / "lib")
    if not found.program.is_file():
        raise PerfAnalyzerMissingError(
            f"there is no perf_analyzer in {folder}; run: tritium bench install"
        )
    return found


def install_perf_analyzer(folder: Path | None = None, *, again: bool = False) -> PerfAnalyzer:
    """Download, verify and unpack it; what is already there is taken as it is.

    Args:
        folder: Where to; None for the user's cache.
        again: Replace what is there.

    Raises:
        PerfAnalyzerMissingError: it cannot be downloaded, is not the file that it should be, or
            does not run on this machine. Nothing is left behind.
    """
    folder = folder or default_folder()
    if not again and (folder / "perf_analyzer").is_file():
        return find_perf_analyzer(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".install-") as scratch:
        made = _unpack(_download(Path(scratch) / "wheel"), Path(scratch) / "made")
        _require_runs(made)
        shutil.rmtree(folder, ignore_errors=True)
        made.program.parent.rename(folder)
    return find_perf_analyzer(folder)


def _download(folder: Path) -> Path:
    folder.mkdir()
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--no-deps", "--platform", PLATFORM, "--only-binary=:all:", "--dest", str(folder),
        REQUIREMENT,
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PerfAnalyzerMissingError(
            f"{REQUIREMENT} was not downloaded within {DOWNLOAD_TIMEOUT_S} s; "
            "is the package index reachable?"
        ) from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = lines[-1] if lines else f"pip ended with {done.returncode}"
        raise PerfAnalyzerMissingError(f"{REQUIREMENT} cannot be downloaded: {reason}")
    return wheels[0]


def _unpack(wheel: Path, folder: Path) -> PerfAnalyzer:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise PerfAnalyzerMissingError(
            f"{wheel.name} has SHA-256 {digest}, not {WHEEL_SHA256}; it was not installed"
        )
    made = PerfAnalyzer(folder / "perf_analyzer", folder / "lib")
    made.libraries.mkdir(parents=True)
    with zipfile.ZipFile(wheel) as archive:
        made.program.write_bytes(archive.read(MEMBER))
    made.program.chmod(0o755)
    shipped = _pytriton_libraries()
    for pattern, name in LIBRARIES.items():
        found = sorted(shipped.glob(pattern))
        if not found:
            raise PerfAnalyzerMissingError(
                f"{shipped} has no {pattern}, which perf_analyzer needs; "
                "reinstall: pip install 'tritium[serve]'"
            )
        # Copies, not links: an environment goes, the cache stays.
        shutil.copy2(found[0], made.libraries / name)
    return made


def _pytriton_libraries() -> Path:
    spec = find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise PerfAnalyzerMissingError(
            "perf_analyzer needs two libraries of nvidia-pytriton: pip install 'tritium[serve]'"
        )
    return Path(spec.origin).parents[1] / "nvidia_pytriton.libs"


def _require_runs(installed: PerfAnalyzer) -> None:
    done = subprocess.run(
        [installed.program, "--version"],
        env=installed.environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        reason = (done.stderr or done.stdout).strip().splitlines() or [f"exit {done.returncode}"]
        raise PerfAnalyzerMissingError(f"perf_analyzer does not run here: {reason[-1]}")
