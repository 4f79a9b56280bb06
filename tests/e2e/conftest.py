"""The demo app and somebody else's model, built and served once for all end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import RECIPE, TrainedDemo
from tests.support import models
from tritium_builders import Bundle, Release, build
from tritium_builders.reference import FusionModel
from tritium_builders.training import load_recipe
from tritium_builders.training.folds import Prepared, TrainedFold, prepare, train_fold
from tritium_builders.training.run import write_bundle
from tritium_client import Client
from tritium_deploy import Ports, Server, serve


@pytest.fixture(scope="session")
def prepared() -> Prepared:
    """The demo data, its encoders and their features in PyTorch."""
    return prepare(load_recipe(RECIPE))


@dataclass(frozen=True)
class Fold:
    """One cross-validation fold of the demo app: its head, its bundle, its release."""

    trained: TrainedFold
    bundle: Bundle
    release: Release


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository that everything is built into."""
    return tmp_path_factory.mktemp("repository")


@pytest.fixture(scope="session")
def folds(
    demo: TrainedDemo,
    prepared: Prepared,
    repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Fold, ...]:
    """Every fold as a release of the demo app; fold k is release k + 1, and release 1 is live."""
    folder = tmp_path_factory.mktemp("bundles")
    found = []
    for fold in range(prepared.recipe.split.folds):
        trained = train_fold(prepared, fold=fold, seed=prepared.recipe.seeds[0])
        bundle = (
            Bundle.load(demo.folder)
            if fold == prepared.recipe.split.fold
            else write_bundle(prepared, trained, folder / f"fold-{fold}")
        )
        found.append(Fold(trained, bundle, build(bundle, repository=repository)))
    assert [fold.release.number for fold in found] == list(range(1, len(found) + 1))
    return tuple(found)


@pytest.fixture(scope="session")
def reference() -> FusionModel:
    """Somebody else's model in PyTorch, with its own weights."""
    modules = models.custom_modules()
    tokenizer = modules["tokenizer"]
    text = modules["text_preprocessing"]
    tokenizer.enable_truncation(max_length=text.max_length)
    return FusionModel(
        modules["text_encoder"],
        modules["image_encoder"],
        modules["fusion_head"],
        tokenizer,
        text,
        modules["image_preprocessing"],
    )


@pytest.fixture(scope="session")
def custom(
    repository: Path, reference: FusionModel, tmp_path_factory: pytest.TempPathFactory
) -> Release:
    """Somebody else's model, through `Bundle.from_modules` and `build`."""

    def predict(text: str, image: bytes) -> object:
        return reference.answer(text, image, [["text", "image"]]).probabilities["text,image"]

    path = tmp_path_factory.mktemp("custom") / "custom"
    bundle = models.custom_bundle(path, reference=predict)
    return build(bundle, repository=repository, target="onnxruntime")


@pytest.fixture(scope="session")
def server(folds: tuple[Fold, ...], custom: Release, repository: Path) -> Iterator[Server]:
    """A ready server with both apps; leave it as it was."""
    assert folds
    assert custom.number == 1
    with serve(repository, ports=Ports.free()) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A client of the demo app."""
    with Client(server.grpc_url, app="openmoji") as one:
        yield one
