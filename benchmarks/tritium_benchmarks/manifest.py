"""The machine, the versions and the release that figures hold for."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from tritium_benchmarks.perf_analyzer import install
from tritium_builders.release import live_release, load_release, release_folder

PACKAGES = (
    "nvidia-pytriton", "tritonclient", "grpcio", "numpy", "torch", "openvino", "onnxruntime",
    "tokenizers", "pillow", "fastapi", "uvicorn", "litserve", "aiohttp",
)  # fmt: skip
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")
"""Of the processor, that engines choose their kernels by."""


def make_manifest(repository: Path | None, app: str) -> dict[str, Any]:
    """Describe this machine, and the live release of an app.

    Args:
        repository: With the release; None for a server elsewhere.
        app: The app.
    """
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(["tritium", *sys.argv[1:]]),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "flags": [flag for flag in FLAGS if flag in _cpuinfo("flags").split()],
        "kernel": platform.release(),
        "glibc": platform.libc_ver()[1],
        "python": platform.python_version(),
        "versions": _versions(),
        "perf_analyzer": install.VERSION,
        "commit": _commit(),
        "release": None if repository is None else _release(repository, app),
    }


def _processor() -> str:
    return _cpuinfo("model name") or platform.machine()


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next(
        (line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key),
        "",
    )


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    """Of the checkout that this runs from, with a + where it has changes; empty elsewhere."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(  # nosec B607 # the git of whoever measures
            ["git", "-C", str(here), *arguments], check=False, capture_output=True, text=True
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "--short", "HEAD")
        return commit + ("+" if commit and git("status", "--porcelain") else "")
    except OSError:
        return ""


def _release(repository: Path, app: str) -> dict[str, Any] | None:
    number = live_release(repository, app)
    if number is None:
        return None
    release = load_release(release_folder(repository, app, number))
    return {
        "number": release.number,
        "target": release.target,
        "precision": release.precision,
        "bundle": release.bundle_hash,
        "created": release.created,
        "choice": None if release.choice is None else release.choice.model_dump(mode="json"),
    }
