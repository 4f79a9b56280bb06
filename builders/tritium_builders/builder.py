"""From a bundle to a release: export -> compile -> verify -> publish."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from tritium_builders.bundle import Bundle
from tritium_builders.compile import COMPILERS
from tritium_builders.components import stage_components
from tritium_builders.errors import CompileError, PublishError, needs
from tritium_builders.graphs import write_graphs
from tritium_builders.parity import verify
from tritium_builders.publish import Build, complete, find_release, publish, staging_area
from tritium_builders.release import Precision, Release, Target

_TOOLS = (
    "tritium", "torch", "transformers", "onnx", "onnxscript", "numpy", "pillow", "tokenizers",
)  # fmt: skip

Progress = Callable[[str, str], None]
"""Told the step (export, compile, verify, publish) and what it works on."""


def build(
    bundle: Bundle | str | os.PathLike[str],
    *,
    target: Target = "openvino",
    repository: str | os.PathLike[str] = "model_repository",
    precision: Precision = "fp32",
    rebuild: bool = False,
    progress: Progress = lambda _step, _item: None,
) -> Release:
    """Build a bundle for a target, prove that it answers as PyTorch does, and publish it.

    A release that the same bundle, target, precision and tools already made is not built again.

    Args:
        bundle: A bundle, or its folder.
        target: What to compile for.
        repository: The Triton model repository; made when it is not there.
        precision: Of the engines.
        rebuild: Build even when the repository already holds this release.
        progress: Told what is being done.

    Returns:
        The published release; the first of an app is live.

    Raises:
        BundleError, ExportError, CompileError, ParityError, PublishError: what went wrong and
            where; nothing was published.
    """
    if not isinstance(bundle, Bundle):
        bundle = Bundle.load(bundle)
    if target not in COMPILERS:
        raise CompileError(f"target {target!r} cannot be built here; use one of {list(COMPILERS)}")
    root = Path(repository)
    with needs("build"):
        tools = _tools(target)
    try:
        root.mkdir(parents=True, exist_ok=True)
        found = find_release(
            root,
            bundle.manifest.app,
            bundle_hash=bundle.hash,
            target=target,
            precision=precision,
            tools=tools,
        )
        with staging_area(root) as staging:
            if found is not None and not rebuild:
                complete(root, bundle, found)
                return found
            graphs = write_graphs(bundle, staging, lambda item: progress("export", item))
            staged = stage_components(
                bundle, graphs, target, staging, lambda item: progress("compile", item)
            )
            report = verify(bundle, staged, precision, lambda item: progress("verify", item))
            progress("publish", bundle.manifest.app)
            command = _command(bundle, target, root)
            made = Build(bundle, staged, report, target, precision, tools, command)
            return publish(root, made, staging)
    except OSError as error:
        place = error.filename or root
        raise PublishError(f"{place}: {error.strerror}; nothing was published") from error


def _tools(target: Target) -> dict[str, str]:
    versions = {name: metadata.version(name) for name in (*_TOOLS, target)}
    return {**versions, "python": platform.python_version()}


def _command(bundle: Bundle, target: Target, repository: Path) -> str:
    words = ["tritium", "build", str(bundle.folder), "--target", target, "--repository"]
    return shlex.join([*words, str(repository)])
