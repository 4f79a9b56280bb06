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
import math
import py_compile
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from tritium_builders.bundle import TOKENIZER, Bundle, file_entry
from tritium_builders.compile import COMPILERS
from tritium_builders.configs import (
    FEW_WEIGHTS,
    MAX_BATCH,
    component_config,
    component_graphs,
    encoders_config,
    engine_spec,
    to_pbtxt,
)
from tritium_builders.release import PublishedComponent, PublishedFile, Target
from tritium_client import contract
from tritium_client.contract import Role

CONFIG = "config.pbtxt"
VERSION = "1"
READERS: tuple[Role, ...] = ("text_tokenizer", "image_decoder")
ENCODED_BY: tuple[Role, ...] = (*READERS, "text_encoder", "image_encoder")
"""What the component `encoders` runs."""
SERVABLES: dict[Role, tuple[str, str]] = {
    "text_tokenizer": ("text_tokenizer", "TextTokenizer"),
    "image_decoder": ("image_decoder", "ImageDecoder"),
    "encoders": ("encoders", "Encoders"),
}
"""Role -> module of `servables` and its class; every other role is an engine."""
HEADS_RUN_ON: Target = "onnxruntime"
"""On every CPU target, whatever runs the encoders."""
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

    def load(self, **setting: Any) -> Callable[..., Any]:
        """Load the servable from the very files that will be published, without Triton.

        Args:
            **setting: What is laid over its specification.
        """
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
        servable: Callable[..., Any] = getattr(loaded, class_name)(
            version, {**self.spec(), **setting}
        )
        return servable

    def spec(self) -> dict[str, Any]:
        """The specification that its servable takes."""
        config = text_format.Parse((self.folder / CONFIG).read_text("utf-8"), pb.ModelConfig())
        found: dict[str, Any] = json.loads(config.parameters["spec"].string_value)
        return found


def stage_readers(
    bundle: Bundle, staging: Path, *, buckets: Sequence[int] = (), max_batch: int = MAX_BATCH
) -> dict[Role, StagedComponent]:
    """Write the components that read raw inputs: the tokenizer and the decoder.

    Args:
        bundle: The bundle.
        staging: A folder on the repository's filesystem.
        buckets: Lengths that texts are padded to; none: texts keep their true length.
        max_batch: Requests that one execution may answer.

    Raises:
        OSError: when the disk is full.
    """
    graphs = component_graphs(bundle.manifest)
    staged = {}
    for role in READERS:
        module, _ = SERVABLES[role]
        folder = component_folder(staging, role)
        if role == "text_tokenizer":
            shutil.copyfile(bundle.folder / TOKENIZER, folder / VERSION / TOKENIZER)
            spec = bundle.manifest.text.servable_spec()
            if buckets:
                spec["buckets"] = list(buckets)
            if bundle.manifest.task == "tagging":
                spec["words"] = True
        else:
            spec = bundle.manifest.image.servable_spec()
        write_servable(module, folder)
        config = component_config(graphs[role], spec, max_batch)
        staged[role] = finish_component(bundle.manifest.app, role, config, folder)
    return staged


def stage_engines(
    bundle: Bundle,
    graphs: Mapping[Role, Path],
    target: Target,
    staging: Path,
    progress: Callable[[str], None] = lambda _: None,
    *,
    bf16: bool = False,
) -> dict[Role, StagedComponent]:
    """Compile every encoder and head for a CPU target, and write its component.

    Args:
        bundle: The bundle.
        graphs: The ONNX graphs from `write_graphs`.
        target: `openvino` or `onnxruntime`.
        staging: A folder on the repository's filesystem.
        progress: Told the role of each component before it is compiled.
        bf16: Whether OpenVINO may compute the encoders in bfloat16.

    Raises:
        CompileError: what the target's compiler refused.
        OSError: when the disk is full.
    """
    described = component_graphs(bundle.manifest)
    staged = {}
    for role, graph in graphs.items():
        progress(role)
        folder = component_folder(staging, role)
        if role in ENCODED_BY:
            file = COMPILERS[target](graph, folder / VERSION)
            few = target == "openvino" and role == "image_encoder"
            few = few and _weights(graph) <= FEW_WEIGHTS
            spec = engine_spec(described[role], target, file, bf16=bf16, one_by_one=few)
        else:
            # A head takes half a millisecond: what it would gain is not worth its rounding, and
            # OpenVINO prepares another batch size for as long as ONNX Runtime computes it.
            file = COMPILERS[HEADS_RUN_ON](graph, folder / VERSION)
            spec = engine_spec(described[role], HEADS_RUN_ON, file)
        write_servable(ENGINE[0], folder)
        config = component_config(described[role], spec)
        staged[role] = finish_component(bundle.manifest.app, role, config, folder)
    return staged


def _weights(graph: Path) -> int:
    """How many numbers a graph's constants hold."""
    import onnx

    model = onnx.load(graph, load_external_data=False)
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer)


def stage_encoders(
    bundle: Bundle, staged: Mapping[Role, StagedComponent], staging: Path
) -> StagedComponent:
    """Write the component that runs the readers and the encoders in one process.

    Args:
        bundle: The bundle.
        staged: These, and perhaps others.
        staging: The folder that they lie in.
    """
    folder = component_folder(staging, "encoders")
    write_servable(SERVABLES["encoders"][0], folder)
    steps: dict[Role, dict[str, Any]] = {
        role: {
            "model": component.model,
            "servable": SERVABLES.get(role, ENGINE)[1],
            "spec": component.spec(),
        }
        for role, component in staged.items()
        if role in ENCODED_BY
    }
    config = encoders_config(bundle.manifest, steps)
    return finish_component(bundle.manifest.app, "encoders", config, folder)


def component_folder(staging: Path, role: Role) -> Path:
    """Make the folder of one component with its empty version folder."""
    folder = staging / role
    (folder / VERSION).mkdir(parents=True)
    return folder


def write_servable(module: str, folder: Path) -> None:
    """Copy a servable into a component, with its compiled form beside it."""
    model = folder / VERSION / "model.py"
    model.write_text(servable_source(module), encoding="utf-8")
    _precompile(model)


def finish_component(
    app: str, role: Role, config: pb.ModelConfig, folder: Path, digest: str | None = None
) -> StagedComponent:
    """Give a component the name that its content has, and write its config.

    Args:
        app: The app.
        role: What it does.
        config: Its configuration, without a name.
        folder: From `component_folder`, with everything else in place.
        digest: The hash of what determines it; None for that of its files.
    """
    config.name = contract.component(app, role, digest or content_hash(folder, config))
    (folder / CONFIG).write_text(to_pbtxt(config), encoding="utf-8")
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
