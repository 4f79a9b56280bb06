"""Everything offline: bundles, models, training, export, engines, parity, publishing.

    from tritium_builders import Bundle, build

    release = build(Bundle.load("bundles/openmoji"), target="openvino")
    print(release.number, release.parity)

Names are imported when they are used: PyTorch is not loaded by `import tritium_builders`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tritium_builders.builder import build
    from tritium_builders.bundle import Bundle
    from tritium_builders.bundle_schema import Sources
    from tritium_builders.preprocessing import ImagePreprocessing, TextPreprocessing
    from tritium_builders.release import Release
    from tritium_builders.samples import Sample
    from tritium_builders.tensorrt.check import check_tensorrt
    from tritium_builders.tensorrt.options import TensorRTOptions

__all__ = [
    "Bundle",
    "ImagePreprocessing",
    "Release",
    "Sample",
    "Sources",
    "TensorRTOptions",
    "TextPreprocessing",
    "build",
    "check_tensorrt",
]

_HOMES = {
    "Bundle": "bundle",
    "ImagePreprocessing": "preprocessing",
    "Release": "release",
    "Sample": "samples",
    "Sources": "bundle_schema",
    "TensorRTOptions": "tensorrt.options",
    "TextPreprocessing": "preprocessing",
    "build": "builder",
    "check_tensorrt": "tensorrt.check",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
