"""Components on disk: a servable, its engine or tokenizer, and its config, named by content.

<app>_<role>_<hash12>/config.pbtxt
<app>_<role>_<hash12>/1/model.py        the servable
<app>_<role>_<hash12>/1/__pycache__/    compiled ahead, see `_precompile`
<app>_<role>_<hash12>/1/...             its engine or tokenizer
"""

from __future__ import annotations

import hashlib
import importlib.resources
import importlib.util
import json
import py_compile
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from tritium_builders.bundle import TOKENIZER, Bundle, file_entry
from tritium_builders.compile import COMPILERS
from tritium_builders.configs import (
    ComponentGraph,
    component_config,
    component_graphs,
    engine_spec,
    to_pbtxt,
)
from tritium_builders.release import PublishedComponent, PublishedFile, Target
from tritium_client import contract
from tritium_client.contract import Role

CONFIG = "config.pbtxt"
VERSION = "1"
SERVABLES: dict[Role, tuple[str, str]] = {
    "text_tokenizer": ("text_tokenizer", "TextTokenizer"),
    "image_decoder": ("image_decoder", "ImageDecoder"),
}
"""Role -> module of `servables` and its class; every other role is an engine."""
ENGINE = ("engine", "Engine")


def servable_source(module: str) -> str:
    """Read the source of a servable."""
    package = importlib.resources.files("tritium_builders.servables")
    return package.joinpath(f"{module}.py").read_text(encoding="utf-8")


@dataclass(frozen=True)
class StagedComponent:
    """A component that was written but is not published yet."""

    role: Role
    model: str
    """Its Triton model name."""
    folder: Path

    def describe(self) -> PublishedComponent:
        """List its files for release.json."""
        files = {
            path.relative_to(self.folder).as_posix(): file_entry(path)
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }
        return PublishedComponent(
            model=self.model,
            files={
                name: PublishedFile(sha256=entry.sha256, bytes=entry.bytes)
                for name, entry in files.items()
            },
        )

    def load(self) -> Callable[..., Any]:
        """Load the servable from the very files that will be published, without Triton."""
        _, class_name = SERVABLES.get(self.role, ENGINE)
        version = self.folder / VERSION
        spec = importlib.util.spec_from_file_location(self.model, version / "model.py")
        assert spec is not None  # noqa: S101 - a .py file always has a loader
        assert spec.loader is not None  # noqa: S101
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[self.model] = loaded  # dataclasses look their module up while it is executed
        try:
            spec.loader.exec_module(loaded)
        finally:
            del sys.modules[self.model]
        config = text_format.Parse((self.folder / CONFIG).read_text("utf-8"), pb.ModelConfig())
        parameters = json.loads(config.parameters["spec"].string_value)
        servable: Callable[..., Any] = getattr(loaded, class_name)(version, parameters)
        return servable


def stage_components(
    bundle: Bundle,
    graphs: Mapping[Role, Path],
    target: Target,
    staging: Path,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[Role, StagedComponent]:
    """Compile every engine and write every component into the staging folder.

    Args:
        bundle: The bundle.
        graphs: The ONNX graphs from `write_graphs`.
        target: What to compile for.
        staging: An empty folder on the repository's filesystem.
        progress: Told the role of each component before it is compiled.

    Raises:
        CompileError: what the target's compiler refused.
        OSError: when the disk is full.
    """
    staged = {}
    for role, graph in component_graphs(bundle.manifest).items():
        progress(role)
        folder = staging / role
        (folder / VERSION).mkdir(parents=True)
        spec = _write_engine(bundle, graph, graphs, target, folder / VERSION)
        module, _ = SERVABLES.get(role, ENGINE)
        (folder / VERSION / "model.py").write_text(servable_source(module), encoding="utf-8")
        staged[role] = _name(bundle.manifest.app, role, component_config(graph, spec), folder)
    return staged


def _write_engine(
    bundle: Bundle,
    graph: ComponentGraph,
    graphs: Mapping[Role, Path],
    target: Target,
    folder: Path,
) -> dict[str, Any]:
    if graph.role == "text_tokenizer":
        shutil.copyfile(bundle.folder / TOKENIZER, folder / TOKENIZER)
        return bundle.manifest.text.servable_spec()
    if graph.role == "image_decoder":
        return bundle.manifest.image.servable_spec()
    file = COMPILERS[target](graphs[graph.role], folder)
    return engine_spec(graph, target, file)


def _name(app: str, role: Role, config: pb.ModelConfig, folder: Path) -> StagedComponent:
    """Give the component the name that its content has, and finish its files."""
    digest = content_hash(folder, config)
    config.name = contract.component(app, role, digest)
    (folder / CONFIG).write_text(to_pbtxt(config), encoding="utf-8")
    _precompile(folder / VERSION / "model.py")
    final = folder.with_name(config.name)
    folder.rename(final)
    return StagedComponent(role, config.name, final)


def content_hash(folder: Path, config: pb.ModelConfig) -> str:
    """SHA-256 of a component's config without its name, and of its version folder's files.

    Compiled Python is left out: it follows from the source and the interpreter.
    """
    unnamed = pb.ModelConfig()
    unnamed.CopyFrom(config)
    unnamed.ClearField("name")
    digest = hashlib.sha256(to_pbtxt(unnamed).encode())
    version = folder / VERSION
    for path in sorted(version.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            name = path.relative_to(version).as_posix()
            digest.update(f"\n{name} {file_entry(path).sha256}".encode())
    return digest.hexdigest()


def _precompile(model: Path) -> None:
    """Ship model.py compiled, so that Triton's stub writes nothing beside it.

    Triton re-initialises a model whose folder changed since it was loaded, and the stub's own
    first import would be such a change. Unchecked: the interpreter must not write it anew.
    """
    py_compile.compile(
        str(model),
        dfile="model.py",
        doraise=True,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
