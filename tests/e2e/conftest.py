"""The demo app and somebody else's model, built and served once for all end-to-end tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.conftest import RECIPE, TrainedDemo
from tests.support import models
from tritium_builders import Bundle, Release, build
from tritium_builders.graphs import load_module
from tritium_builders.reference import FusionModel
from tritium_builders.release import Target
from tritium_builders.tensorrt.machine import find_gpu
from tritium_builders.training import load_recipe
from tritium_builders.training.folds import Prepared, prepare, train_fold
from tritium_builders.training.run import write_bundle
from tritium_client import Client
from tritium_deploy import Ports, Server, serve

FULL = bool(os.environ.get("TRITIUM_TEST_FULL"))
"""All folds, so that every item is served once; else two, which is what the other tests need."""
TARGET: Target = os.environ.get("TRITIUM_E2E_TARGET", "openvino")  # type: ignore[assignment]
"""What the demo app is built for; `make test-gpu` asks for tensorrt."""


@pytest.fixture(scope="session", autouse=True)
def machine_for_the_target() -> None:
    """TensorRT releases cannot be built without a GPU: say so once, and run nothing."""
    if TARGET == "tensorrt" and isinstance(gpu := find_gpu(), str):
        pytest.exit(f"TRITIUM_E2E_TARGET=tensorrt needs an NVIDIA GPU: {gpu}", returncode=1)


@pytest.fixture(scope="session")
def prepared() -> Prepared:
    """The demo data, its encoders and their features in PyTorch."""
    return prepare(load_recipe(RECIPE))


@dataclass(frozen=True)
class Fold:
    """One cross-validation fold of the demo app: its bundle, its release, PyTorch's answers."""

    bundle: Bundle
    release: Release
    held_out: tuple[int, ...]
    """Indices into the data set: the items that the fold's head never saw."""
    probabilities: npt.NDArray[np.float32]
    """FP32 [held-out items, labels], by PyTorch, with both modalities."""


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
    """Every fold as a release of the demo app; fold k is release k + 1, and release 1 is live.

    The demo's own bundle is fold 0. The other heads are trained for a few epochs only: served
    and PyTorch's answers have to be equal, not good.
    """
    recipe = prepared.recipe
    assert recipe.split.fold == 0
    hasty = recipe.optimiser.model_copy(update={"max_epochs": 8})
    in_haste = replace(prepared, recipe=recipe.model_copy(update={"optimiser": hasty}))
    folder = tmp_path_factory.mktemp("bundles")
    bundles = [Bundle.load(demo.folder)]
    for fold in range(1, recipe.split.folds if FULL else 2):
        trained = train_fold(in_haste, fold=fold, seed=recipe.seeds[0])
        bundles.append(write_bundle(in_haste, trained, folder / f"fold-{fold}"))
    found = []
    for number, bundle in enumerate(bundles):
        held_out = prepared.split(number).held_out
        release = build(bundle, repository=repository, target=TARGET)
        assert release.number == number + 1
        probabilities = answer_in_pytorch(bundle, prepared, held_out)
        found.append(Fold(bundle, release, tuple(held_out.tolist()), probabilities))
    return tuple(found)


@torch.inference_mode()
def answer_in_pytorch(
    bundle: Bundle, prepared: Prepared, items: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """The bundle's head on the features that PyTorch's encoders gave."""
    features = prepared.features.select(torch.from_numpy(items))
    head = load_module(bundle, "fusion_head", bundle.manifest.fusion_head.architecture)
    probabilities: npt.NDArray[np.float32] = head(features.text, features.image).softmax(-1).numpy()
    return probabilities


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
        return reference.answer(text, image, [["text", "image"]]).values["text,image"]

    path = tmp_path_factory.mktemp("custom") / "custom"
    bundle = models.custom_bundle(path, reference=predict)
    target: Target = "onnxruntime" if TARGET == "openvino" else TARGET
    return build(bundle, repository=repository, target=target)


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
