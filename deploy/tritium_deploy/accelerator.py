"""What a tritonserver runs plans with: its TensorRT and its GPU; and whether a plan fits them.

A plan belongs to the TensorRT and the kind of GPU that it was built with. Triton finds out while it
loads the model, in words of its own; here it is said before anything is loaded.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass

from tritium_builders.release import Release, TensorRTRecord
from tritium_builders.tensorrt.machine import find_gpu
from tritium_client import contract
from tritium_deploy.errors import PlanMismatchError
from tritium_deploy.installation import Installation

BACKEND = "tensorrt"
NONE = "none"
"""How the entry points' parameters say that a server has no TensorRT, or no GPU."""

_ASK = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
try:
    parts = [getattr(library, f"getInferLib{name}Version")() for name in
             ("Major", "Minor", "Patch", "Build")]
except AttributeError:  # a library that has only the packed number
    packed = library.getInferLibVersion()
    parts = [packed // 10000, packed // 100 % 100, packed % 100]
print(".".join(map(str, parts)))
"""
"""Run in a process of its own: libnvinfer is large, and stays in the process that loads it."""


@dataclass(frozen=True)
class Accelerator:
    """What a server can run plans with."""

    tensorrt_version: str | None = None
    """For instance `10.13.2.6`; None without TensorRT."""
    compute_capability: str | None = None
    """Of its first GPU, for instance `8.6`; None without a GPU."""

    def parameters(self) -> dict[str, str]:
        """What `tritium serve` adds to the entry points' configuration parameters."""
        return {
            contract.PARAM_SERVER_TENSORRT: self.tensorrt_version or NONE,
            contract.PARAM_SERVER_COMPUTE_CAPABILITY: self.compute_capability or NONE,
        }


def find_accelerator(installation: Installation) -> Accelerator:
    """Find out what a tritonserver would run plans with."""
    if not installation.has_backend(BACKEND):
        return Accelerator()
    gpu = find_gpu()
    capability = None if isinstance(gpu, str) else ".".join(map(str, gpu.compute_capability))
    return Accelerator(_tensorrt_version(installation), capability)


def _tensorrt_version(installation: Installation) -> str | None:
    """Ask the library that the backend is linked with; None when it does not load."""
    backend = installation.backends / BACKEND / "libtriton_tensorrt.so"
    try:
        named = re.search(rb"libnvinfer\.so\.\d+", backend.read_bytes())
    except OSError:
        return None
    if named is None:
        return None
    asked = subprocess.run(
        [sys.executable, "-I", "-c", _ASK, named[0].decode()],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=installation.environment(),
    )
    return asked.stdout.strip() or None


def require_plans_fit(release: Release, accelerator: Accelerator) -> None:
    """Refuse a release whose plans this server's TensorRT or GPU does not run.

    Args:
        release: What is to be loaded; releases for other targets always pass.
        accelerator: What the server has.

    Raises:
        PlanMismatchError: with what the plans were built with and what the server has.
    """
    built = release.tensorrt
    if built is None:
        return
    what = f"{release.app} release {release.number}"
    if accelerator.tensorrt_version is None:
        raise PlanMismatchError(
            f"{what} holds plans of TensorRT {built.version}, and this server has no TensorRT; "
            "serve it with NVIDIA's Triton container, or build for openvino"
        )
    if not _version_fits(built, accelerator.tensorrt_version):
        raise PlanMismatchError(
            f"{what} was built with TensorRT {built.version}, and this server has TensorRT "
            f"{accelerator.tensorrt_version}; build it again in the container of this Triton "
            "release, or with --version-compatible"
        )
    if accelerator.compute_capability is None:
        raise PlanMismatchError(
            f"{what} was built for compute capability {built.compute_capability}, and this server "
            "sees no GPU; start it with --gpus all, or build for openvino"
        )
    if not _gpu_fits(built, accelerator.compute_capability):
        raise PlanMismatchError(
            f"{what} was built for compute capability {built.compute_capability}, and this "
            f"server's GPU has {accelerator.compute_capability}; build it again on this kind of "
            "GPU, or with --hardware-compatibility ampere_plus"
        )


def _version_fits(built: TensorRTRecord, server: str) -> bool:
    """Equal as far as both say; with version compatibility the server may be newer."""
    ours, theirs = _numbers(built.version), _numbers(server)
    known = min(len(ours), len(theirs))
    if ours[:known] == theirs[:known]:
        return True
    return bool(built.options.get("version_compatible")) and theirs > ours


def _gpu_fits(built: TensorRTRecord, server: str) -> bool:
    if built.compute_capability == server:
        return True
    return built.options.get("hardware_compatibility") == "ampere_plus" and _numbers(server) >= (8,)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
