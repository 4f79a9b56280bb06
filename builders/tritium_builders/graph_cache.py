"""Exported graphs, kept in the user's cache folder.

A retrained head should not cost the export of two encoders again. The key holds everything that
an export depends on; the parity gate checks what comes out, cached or not.
"""

from __future__ import annotations

import hashlib
import inspect
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from tritium_builders import export, reference, tasks
from tritium_builders.bundle import Bundle
from tritium_builders.bundle_schema import FeatureKind
from tritium_builders.data.cache import cached_files, content_key
from tritium_builders.models.known import KnownModule
from tritium_builders.modules import GRAPH, write_known
from tritium_builders.preprocessing import ImagePreprocessing, TextPreprocessing

_TOOLS = ("torch", "transformers", "onnx", "onnxscript", "tritium")


def cached_export(
    bundle: Bundle, component: str, variant: str, path: Path, write: Callable[[Path], None]
) -> None:
    """Write a graph from the cache, or export it and keep it.

    Args:
        bundle: The bundle.
        component: Its folder within the bundle, for instance `text_encoder`.
        variant: Which of the component's graphs, for instance `text_image`.
        path: Where the graph goes.
        write: Exports the graph to a path.
    """

    def export_graph() -> dict[str, bytes]:
        write(path)
        return {GRAPH: path.read_bytes()}

    files = cached_files(f"graph-{component}", _key(bundle, component, variant), export_graph)
    path.write_bytes(files[GRAPH])


def cached_encoder_export(
    module: KnownModule,
    component: str,
    preprocessing: TextPreprocessing | ImagePreprocessing,
    kind: FeatureKind,
    path: Path,
    write: Callable[[Path], None],
) -> None:
    """Write an encoder's graph before there is a bundle; `cached_export` of one finds it again.

    Args:
        module: The encoder.
        component: `text_encoder` or `image_encoder`.
        preprocessing: Its modality's.
        kind: What it gives.
        path: Where the graph goes.
        write: Exports the graph to a path.
    """

    def export_graph() -> dict[str, bytes]:
        write(path)
        return {GRAPH: path.read_bytes()}

    with tempfile.TemporaryDirectory() as folder:
        write_known(module, Path(folder))
        hashes = {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in Path(folder).iterdir()
        }
    key = _encoder_key(component, kind, preprocessing, hashes)
    path.write_bytes(cached_files(f"graph-{component}", key, export_graph)[GRAPH])


def _key(bundle: Bundle, component: str, variant: str) -> str:
    manifest = bundle.manifest
    hashes = {
        name.removeprefix(f"{component}/"): entry.sha256
        for name, entry in manifest.files.items()
        if name.startswith(f"{component}/")
    }
    if component == "text_encoder":
        return _encoder_key(component, manifest.text_encoder.features, manifest.text, hashes)
    if component == "image_encoder":
        return _encoder_key(component, manifest.image_encoder.features, manifest.image, hashes)
    described = manifest.model_dump_json(exclude={"files", "labels", "sources", "app"})
    return _content_key([variant, described], hashes)


def _encoder_key(
    component: str,
    kind: FeatureKind,
    preprocessing: TextPreprocessing | ImagePreprocessing,
    hashes: Mapping[str, str],
) -> str:
    """What an encoder's graph depends on: nothing of the head, so that a retrained one is cheap."""
    return _content_key([component, kind, preprocessing.model_dump_json()], hashes)


def _content_key(described: Sequence[str], hashes: Mapping[str, str]) -> str:
    weights = [f"{name} {sha256}" for name, sha256 in sorted(hashes.items())]
    code = [
        hashlib.sha256(inspect.getsource(module).encode()).hexdigest()
        for module in (export, reference, tasks)
    ]
    tools = [f"{name} {metadata.version(name)}" for name in _TOOLS]
    parts = [*described, platform.python_version(), *weights, *code, *tools]
    return content_key(part.encode() for part in parts)
