"""Exported graphs are kept, and only used for what they were exported from."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.builders.test_bundle import edit
from tests.support.known import fusion_bundle, known_bundle
from tritium_builders import Bundle, graphs
from tritium_builders.graphs import write_graphs


def write(bundle: Bundle, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    return {role: path.read_bytes() for role, path in write_graphs(bundle, folder).items()}


def record_exports(patch: pytest.MonkeyPatch, cache: Path) -> list[str]:
    """The components that are exported from now on, with graphs kept in `cache`."""
    patch.setenv("XDG_CACHE_HOME", str(cache))
    done: list[str] = []
    for name in ("text_encoder", "image_encoder", "fusion_head"):
        function = getattr(graphs, f"export_{name}")

        def record(*arguments: object, name: str = name, function: object = function) -> None:
            done.append(name)
            function(*arguments)  # type: ignore[operator]

        patch.setattr(graphs, f"export_{name}", record)
    return done


@dataclass(frozen=True)
class Exported:
    """The known bundle's first export, into an empty cache."""

    cache: Path
    order: list[str]
    graphs: dict[str, bytes]


@pytest.fixture(scope="module")
def first(known: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        order = record_exports(patch, folder / "cache")
        return Exported(folder / "cache", order, write(known, folder / "graphs"))


@pytest.fixture
def exported(first: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The components that are exported after the first export, with a copy of its cache."""
    cache = shutil.copytree(first.cache, tmp_path / "cache")
    return record_exports(monkeypatch, cache)


def test_a_second_export_takes_the_same_graphs_from_the_cache(
    first: Exported, known: Bundle, exported: list[str], tmp_path: Path
) -> None:
    assert first.order == ["text_encoder", "image_encoder", *["fusion_head"] * 3]
    assert write(known, tmp_path / "2") == first.graphs
    assert exported == []


def test_a_retrained_head_exports_the_head_alone(
    known: Bundle, exported: list[str], tmp_path: Path
) -> None:
    head = known_bundle(tmp_path / "other", seed=4)
    encoders = ("text_encoder/model.safetensors", "image_encoder/model.safetensors")
    for name in encoders:  # the same encoders under another head
        (head.folder / name).write_bytes((known.folder / name).read_bytes())
        old, new = head.manifest.files[name], known.manifest.files[name]
        edit(head.folder, old.sha256, new.sha256)
    write(Bundle(head.folder, Bundle.load(head.folder).manifest), tmp_path / "2")
    assert exported == ["fusion_head"] * 3


def test_other_preprocessing_is_another_graph(
    first: Exported, exported: list[str], tmp_path: Path, known_copy: Path
) -> None:
    edit(known_copy, "rescale_factor = 0.00392156862745098", "rescale_factor = 1.0")
    second = write(Bundle.load(known_copy), tmp_path / "2")
    assert "image_encoder" in exported
    assert "text_encoder" not in exported, "it reads no pictures"
    assert second["image_encoder"] != first.graphs["image_encoder"]


def test_another_kind_of_head_leaves_the_encoders_graphs(
    exported: list[str], tmp_path: Path
) -> None:
    write(fusion_bundle(tmp_path / "gated", "gated"), tmp_path / "2")
    assert exported == ["fusion_head"] * 3
