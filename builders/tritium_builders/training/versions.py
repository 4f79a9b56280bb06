"""What a bundle was trained with."""

from __future__ import annotations

import platform
from importlib import metadata

PACKAGES = ("tritium", "torch", "transformers", "tokenizers", "scikit-learn", "numpy", "pillow")
"""What answers depend on."""


def versions() -> dict[str, str]:
    """Package -> version, Python's in front; the same on every run of one installation."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # a source tree that is on the path only
            found[package] = "not installed"
    return found
