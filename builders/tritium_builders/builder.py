"""From a bundle to a release: export -> cast -> compile -> verify -> publish."""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from tritium_builders.bundle import Bundle
from tritium_builders.choose import choose
from tritium_builders.compile import COMPILERS
from tritium_builders.components import (
    StagedComponent,
    stage_encoders,
    stage_engines,
    stage_readers,
)
from tritium_builders.errors import CompileError, PublishError, needs
from tritium_builders.graphs import write_graphs
from tritium_builders.parity import verify
from tritium_builders.publish import (
    Build,
    Made,
    complete,
    find_release,
    publish,
    staging_area,
)
from tritium_builders.release import Precision, Release, Target
from tritium_client.contract import Role

if TYPE_CHECKING:
    from tritium_builders.tensorrt.machine import BuildMachine
    from tritium_builders.tensorrt.options import TensorRTOptions

_TOOLS = (
    "tritium", "torch", "transformers", "onnx", "onnxscript", "numpy", "pillow", "tokenizers",
)  # fmt: skip
_TENSORRT_TOOLS = ("onnxruntime", "polygraphy", "nvidia-modelopt")

AUTO: Literal["auto"] = "auto"
CPU_TARGETS: tuple[Target, ...] = ("openvino", "onnxruntime")
Progress = Callable[[str, str], None]
"""Told the step (export, cast, compile, measure, verify, publish) and what it works on."""


def build(
    bundle: Bundle | str | os.PathLike[str],
    *,
    target: Target | Literal["auto"] = "auto",
    repository: str | os.PathLike[str] = "model_repository",
    precision: Precision = "fp32",
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
        precision: Of the engines. fp16, bf16 and int8 are for `tensorrt`; they have to pass the
            accuracy gate as well as parity.
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
    root = Path(repository)
    targets = CPU_TARGETS if target == AUTO else (target,)
    command = _command(bundle, target, precision, tensorrt, root)
    machine = None
    if target == "tensorrt":
        from tritium_builders.tensorrt.machine import find_build_machine
        from tritium_builders.tensorrt.options import TensorRTOptions

        machine = find_build_machine(command[1:])
        tensorrt = tensorrt or TensorRTOptions()
    with needs("build" if machine is None else "tensorrt"):
        tools = _tools(targets, machine)
    try:
        root.mkdir(parents=True, exist_ok=True)
        found = find_release(
            root,
            bundle.manifest.app,
            bundle_hash=bundle.hash,
            # What was chosen once stays: the tools, both runtimes among them, say that it was.
            **({} if target == AUTO else {"target": target}),
            precision=precision,
            tools=tools,
            tensorrt_options=None if tensorrt is None else tensorrt.describe(),
        )
        with staging_area(root) as staging:
            if found is not None and not rebuild:
                complete(root, bundle, found)
                return found
            if machine is None or tensorrt is None:
                made = _make_for_cpu(bundle, targets, staging, progress)
            else:
                from tritium_builders.tensorrt.make import make_release

                made = make_release(
                    bundle, precision, tensorrt, machine, root, staging, progress=progress
                )
            progress("publish", bundle.manifest.app)
            made_for = targets[0] if made.choice is None else made.choice.target
            build = Build(bundle, made, made_for, precision, tools, shlex.join(command))
            return publish(root, build, staging)
    except OSError as error:
        place = error.filename or root
        raise PublishError(f"{place}: {error.strerror}; nothing was published") from error


def _check(target: str, precision: Precision, tensorrt: TensorRTOptions | None) -> None:
    known_targets = [AUTO, *get_args(Target)]
    if target not in known_targets:
        raise CompileError(f"target {target!r} is not known; use one of {known_targets}")
    if precision not in get_args(Precision):
        known = ", ".join(get_args(Precision))
        raise CompileError(f"precision {precision!r} is not known; use one of {known}")
    for_cpu = target in (AUTO, *COMPILERS)
    if for_cpu and precision != "fp32":
        raise CompileError(
            f"target {target} builds fp32 only; {precision} is for --target tensorrt"
        )
    if for_cpu and tensorrt is not None:
        raise CompileError(f"TensorRT options are for --target tensorrt, and not for {target}")


def _make_for_cpu(
    bundle: Bundle, targets: Sequence[Target], staging: Path, progress: Progress
) -> Made:
    """Make the components of a release that runs in Triton's Python backend.

    Of several targets the one whose encoders are faster here.
    """
    graphs = write_graphs(bundle, staging, lambda role: progress("export", role))
    candidates = {}
    for target in targets:
        folder = staging / target
        folder.mkdir()
        candidates[target] = _stage_for_cpu(bundle, graphs, target, folder, progress)
    choice, target = None, targets[0]
    if len(targets) > 1:
        loaders = {
            name: partial(_load_instance, staged["encoders"]) for name, staged in candidates.items()
        }
        choice = choose(bundle, loaders, lambda name: progress("measure", name))
        target = choice.target
    servables = {role: component.load for role, component in candidates[target].items()}
    report = verify(bundle, servables, "fp32", lambda role: progress("verify", role))
    return Made(candidates[target], report, choice=choice)


def _stage_for_cpu(
    bundle: Bundle,
    graphs: Mapping[Role, Path],
    target: Target,
    staging: Path,
    progress: Progress,
) -> dict[Role, StagedComponent]:
    staged = {
        **stage_readers(bundle, staging),
        **stage_engines(bundle, graphs, target, staging, lambda role: progress("compile", role)),
    }
    staged["encoders"] = stage_encoders(bundle, staged, staging)
    return staged


def _load_instance(encoders: StagedComponent, threads: int) -> Callable[..., Any]:
    return encoders.load(threads=threads)


def _tools(targets: Sequence[Target], machine: BuildMachine | None) -> dict[str, str]:
    if machine is None:
        names: tuple[str, ...] = (*_TOOLS, *targets)
        found = {}
    else:
        names = (*_TOOLS, *_TENSORRT_TOOLS)
        found = {"tensorrt": machine.tensorrt_version, "gpu": machine.gpu.name}
    found |= {name: metadata.version(name) for name in names}
    return {**found, "python": platform.python_version(), "served code": _served_code()}


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
    precision: Precision,
    tensorrt: TensorRTOptions | None,
    repository: Path,
) -> list[str]:
    words = ["tritium", "build", str(bundle.folder), "--target", target]
    if precision != "fp32":
        words += ["--precision", precision]
    if tensorrt is not None:
        words += tensorrt.arguments()
    return [*words, "--repository", str(repository)]
