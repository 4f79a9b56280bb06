"""What this machine has to build plans with, and where else they can be built."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from tritium_builders.errors import TargetMissingError

TRITON_RELEASE = "25.08"
"""The NGC Triton release that deploy/docker builds on and serves with; one place for all."""
BUILD_IMAGE = f"tritium-build:{TRITON_RELEASE}"


@dataclass(frozen=True)
class Gpu:
    """The first NVIDIA GPU."""

    name: str
    compute_capability: tuple[int, int]


@dataclass(frozen=True)
class BuildMachine:
    """A machine that builds plans: they belong to its TensorRT and its kind of GPU."""

    tensorrt_version: str
    gpu: Gpu

    @property
    def compute_capability(self) -> str:
        """For instance `8.6`."""
        return ".".join(map(str, self.gpu.compute_capability))


def find_gpu() -> Gpu | str:
    """Ask the NVIDIA driver for the first GPU.

    Returns:
        The GPU, or why there is none, in words.
    """
    if importlib.util.find_spec("pynvml") is None:
        return "nvidia-ml-py is not installed"
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return f"no NVIDIA driver ({error})"
    try:
        if pynvml.nvmlDeviceGetCount() == 0:
            return "the NVIDIA driver sees no GPU"
        device = pynvml.nvmlDeviceGetHandleByIndex(0)
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(device)
        return Gpu(str(pynvml.nvmlDeviceGetName(device)), (int(major), int(minor)))
    except pynvml.NVMLError as error:
        return f"the NVIDIA driver does not describe the GPU ({error})"
    finally:
        pynvml.nvmlShutdown()


def find_build_machine(arguments: Sequence[str]) -> BuildMachine:
    """Find out what plans would be built with here.

    Args:
        arguments: Of the `tritium` command that is being run, for the command that runs it
            elsewhere.

    Raises:
        TargetMissingError: naming everything that is missing, and the docker command that runs the
            same build in NVIDIA's container.
    """
    missing = []
    gpu = find_gpu()
    if isinstance(gpu, str):
        missing.append(f"an NVIDIA GPU ({gpu})")
    version = ""
    if importlib.util.find_spec("tensorrt") is None:
        missing.append("the Python package tensorrt")
    else:
        try:
            version = str(import_module("tensorrt").__version__)
        except (ImportError, OSError) as error:
            missing.append(f"TensorRT's libraries ({error})")
    missing += [
        f"the Python package {package} (pip install 'tritium[tensorrt]')"
        for package in ("polygraphy", "modelopt")
        if importlib.util.find_spec(package) is None
    ]
    if missing or isinstance(gpu, str):
        raise TargetMissingError(
            f"plans cannot be built here: this machine lacks {', '.join(missing)}. On a machine "
            f"with a GPU run: {docker_command(arguments)} (the image: docker build -f "
            f"deploy/docker/Dockerfile.build -t {BUILD_IMAGE} .). What needs no GPU runs here with "
            "--check"
        )
    return BuildMachine(version, gpu)


def docker_command(arguments: Sequence[str]) -> str:
    """The command that runs `tritium` with these arguments in the build container."""
    mine = '--user "$(id -u):$(id -g)" -v "$PWD:/work"'
    return f"docker run --rm --gpus all {mine} {BUILD_IMAGE} {shlex.join(arguments)}"
