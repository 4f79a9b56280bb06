"""From a bundle to a release: export -> cast -> compile -> verify -> publish."""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import platform
import shlex
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from tritium_builders.bundle import Bundle
from tritium_builders.choose import Candidate
from tritium_builders.compile import COMPILERS
from tritium_builders.components import HEADS_RUN_ON
from tritium_builders.cpu import AUTO, candidates, make_for_cpu
from tritium_builders.errors import CompileError, PublishError, needs
from tritium_builders.publish import (
    Build,
    complete,
    find_release,
    publish,
    staging_area,
)
from tritium_builders.release import Precision, Release, Target

if TYPE_CHECKING:
    from tritium_builders.tensorrt.machine import BuildMachine
    from tritium_builders.tensorrt.options import TensorRTOptions

_TOOLS = (
    "tritium", "torch", "transformers", "onnx", "onnxscript", "numpy", "pillow", "cykooz-resizer",
    "tokenizers",
)  # fmt: skip
_QUANTISER = "nvidia-modelopt"
_TENSORRT_TOOLS = ("onnxruntime", "polygraphy", _QUANTISER)

Progress = Callable[[str, str], None]
"""Told the step (export, cast, compile, measure, verify, publish) and what it works on."""


def build(
    bundle: Bundle | str | os.PathLike[str],
    *,
    target: Target | Literal["auto"] = "auto",
    repository: str | os.PathLike[str] = "model_repository",
    precision: Precision | Literal["auto"] = "fp32",
    tensorrt: TensorRTOptions | None = None,
    rebuild: bool = False,
    progress: Progress = lambda _step, _item: None,
) -> Release:
    """Build a bundle for a target, prove that it answers as PyTorch does, and publish it.

    A release that the same bundle, target, precision, options and tools already made is not built
    again.

    Args:
        bundle: A bundle, or its folder.
        target: What to compile for. `auto` is the CPU target that answers the bundle's samples
            faster on this machine. `tensorrt` needs an NVIDIA GPU and TensorRT.
        repository: The Triton model repository; made when it is not there.
        precision: Of the engines. fp16, bf16 and int8 are `tensorrt`'s, bf16 and int8 also
            `openvino`'s; they have to pass the accuracy gate as well as parity. `auto` is the one
            that is fastest on this CPU of those that pass.
        tensorrt: Options of the target `tensorrt`.
        rebuild: Build even when the repository already holds this release.
        progress: Told what is being done.

    Returns:
        The published release; the first of an app is live.

    Raises:
        BundleError, ExportError, CompileError, ParityError, AccuracyError, PublishError: what
            went wrong and where; nothing was published.
        TargetMissingError: when this machine cannot build for the target; says what is missing.
    """
    if not isinstance(bundle, Bundle):
        bundle = Bundle.load(bundle)
    _check(target, precision, tensorrt)
    if target == "tensorrt" and bundle.manifest.task == "tagging":
        raise CompileError(
            "tagging is not built for TensorRT yet, whose profiles know one length of a text; use "
            "--target openvino or onnxruntime"
        )
    root = Path(repository)
    wanted = [] if target == "tensorrt" else candidates(target, precision)
    command = _command(bundle, target, precision, tensorrt, root)
    machine = None
    if target == "tensorrt":
        from tritium_builders.tensorrt.machine import find_build_machine
        from tritium_builders.tensorrt.options import TensorRTOptions

        machine = find_build_machine(command[1:])
        tensorrt = tensorrt or TensorRTOptions()
    with needs("build" if machine is None else "tensorrt"):
        tools = _tools(wanted, machine)
    try:
        root.mkdir(parents=True, exist_ok=True)
        found = find_release(
            root,
            bundle.manifest.app,
            bundle_hash=bundle.hash,
            # What was chosen once stays: the tools, both runtimes among them, say that it was.
            **({} if target == AUTO else {"target": target}),
            **({} if precision == AUTO else {"precision": precision}),
            tools=tools,
            tensorrt_options=None if tensorrt is None else tensorrt.describe(),
        )
        with staging_area(root) as staging:
            if found is not None and not rebuild:
                complete(root, found)
                return found
            if machine is None or tensorrt is None:
                taken, made = make_for_cpu(bundle, wanted, staging, progress)
            else:
                from tritium_builders.tensorrt.make import make_release

                taken = Candidate("tensorrt", cast(Precision, precision))
                made = make_release(
                    bundle, taken.precision, tensorrt, machine, root, staging, progress=progress
                )
            progress("publish", bundle.manifest.app)
            build = Build(bundle, made, taken.target, taken.precision, tools, shlex.join(command))
            return publish(root, build, staging)
    except OSError as error:
        place = error.filename or root
        raise PublishError(f"{place}: {error.strerror}; nothing was published") from error


def _check(target: str, precision: str, tensorrt: TensorRTOptions | None) -> None:
    known_targets = [AUTO, *get_args(Target)]
    if target not in known_targets:
        raise CompileError(f"target {target!r} is not known; use one of {known_targets}")
    known_precisions = [*get_args(Precision), AUTO]
    if precision not in known_precisions:
        known = ", ".join(known_precisions)
        raise CompileError(f"precision {precision!r} is not known; use one of {known}")
    if target == "tensorrt" and precision == AUTO:
        known = ", ".join(get_args(Precision))
        raise CompileError(f"precision auto is for CPUs; with --target tensorrt use one of {known}")
    if target in (AUTO, *COMPILERS) and tensorrt is not None:
        raise CompileError(f"TensorRT options are for --target tensorrt, and not for {target}")


def _tools(wanted: Sequence[Candidate], machine: BuildMachine | None) -> dict[str, str]:
    if machine is None:
        targets = dict.fromkeys(candidate.target for candidate in wanted)
        names: tuple[str, ...] = (*_TOOLS, *targets)
        found = {}
        if HEADS_RUN_ON not in targets:  # under its own name: it is nothing that auto chose from
            found[f"{HEADS_RUN_ON} (heads)"] = metadata.version(HEADS_RUN_ON)
        if any(candidate.precision == "int8" for candidate in wanted):
            # It also tells what `--precision auto` chose from what was asked for in fp32.
            found[_QUANTISER] = _version_if_installed(_QUANTISER)
    else:
        names = (*_TOOLS, *_TENSORRT_TOOLS)
        found = {"tensorrt": machine.tensorrt_version, "gpu": machine.gpu.name}
    found |= {name: metadata.version(name) for name in names}
    return {**found, "python": platform.python_version(), "served code": _served_code()}


def _version_if_installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _served_code() -> str:
    """A hash of our own code that a release carries: a checkout changes between two versions."""
    package = importlib.resources.files("tritium_builders")
    files = [file for file in package.joinpath("servables").iterdir() if file.name.endswith(".py")]
    digest = hashlib.sha256(package.joinpath("configs.py").read_bytes())
    for file in sorted(files, key=lambda file: file.name):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _command(
    bundle: Bundle,
    target: Target | Literal["auto"],
    precision: str,
    tensorrt: TensorRTOptions | None,
    repository: Path,
) -> list[str]:
    words = ["tritium", "build", str(bundle.folder), "--target", target]
    if precision != "fp32":
        words += ["--precision", precision]
    if tensorrt is not None:
        words += tensorrt.arguments()
    return [*words, "--repository", str(repository)]
