"""Exported graphs, kept in the user's cache folder.

A retrained head should not cost the export of two encoders again. The key holds everything that
an export depends on; the parity gate checks what comes out, cached or not.
"""

from __future__ import annotations

import hashlib
import inspect
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from tritium_builders import export, reference, tasks
from tritium_builders.bundle import Bundle
from tritium_builders.data.cache import cached_files, content_key

_TOOLS = ("torch", "transformers", "onnx", "onnxscript", "tritium")
_NEVER_READ = {"files", "labels", "sources", "app"}
"""What no export reads of a manifest."""
_ALL_THAT_IS_READ = {
    "text_encoder": {"text", "text_encoder"},
    "image_encoder": {"image", "image_encoder"},
}
"""Encoder -> what its export reads. A head's reads sizes of features and the task, too: of the
manifest it takes everything but `_NEVER_READ`."""


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
        return {path.name: path.read_bytes()}

    files = cached_files(f"graph-{component}", _key(bundle, component, variant), export_graph)
    path.write_bytes(files[path.name])


def _key(bundle: Bundle, component: str, variant: str) -> str:
    manifest = bundle.manifest
    weights = [
        f"{name} {entry.sha256}"
        for name, entry in sorted(manifest.files.items())
        if name.startswith(f"{component}/")
    ]
    code = [
        hashlib.sha256(inspect.getsource(module).encode()).hexdigest()
        for module in (export, reference, tasks)
    ]
    tools = [f"{name} {metadata.version(name)}" for name in _TOOLS]
    described = manifest.model_dump_json(
        include=_ALL_THAT_IS_READ.get(component), exclude=_NEVER_READ
    )
    parts = [variant, described, platform.python_version(), *weights, *code, *tools]
    return content_key(part.encode() for part in parts)
