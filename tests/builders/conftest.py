"""Bundles that the builders' tests share; tests copy what they change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support import models
from tritium_builders import Bundle


@pytest.fixture(scope="session")
def custom(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle from modules that our code does not know: graphs are kept."""
    return models.custom_bundle(tmp_path_factory.mktemp("bundles") / "custom")


@pytest.fixture(scope="session")
def known(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of architectures that we know, with random weights: safetensors are kept."""
    from tests.support.known import known_bundle

    return known_bundle(tmp_path_factory.mktemp("bundles") / "known")


@pytest.fixture
def custom_copy(custom: Bundle, tmp_path: Path) -> Path:
    """A copy of the custom bundle's folder, to damage."""
    return Path(shutil.copytree(custom.folder, tmp_path / "custom"))


@pytest.fixture
def known_copy(known: Bundle, tmp_path: Path) -> Path:
    """A copy of the known bundle's folder, to damage."""
    return Path(shutil.copytree(known.folder, tmp_path / "known"))
