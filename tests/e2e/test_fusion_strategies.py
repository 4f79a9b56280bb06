"""What training makes beside the demo app, served by Triton: other heads, ensembles of bundles,
encoders that were adapted without labels and then learned with their head."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import FULL, TARGET
from tests.support.known import fusion_bundle
from tests.support.manifests import pairs, tiny_encoders, write_csv, write_recipe
from tritium_builders import Bundle, build
from tritium_builders.ensembles.merge import merge_bundles
from tritium_builders.models import FUSION_HEADS
from tritium_builders.training import train
from tritium_builders.training.pretraining.run import pretrain
from tritium_client import Client
from tritium_deploy import Ports, Server, serve

pytestmark = pytest.mark.e2e
ENSEMBLE = "ensemble"
# One over tokens and patches with a mask, and two bundles that have become one.
STRATEGIES = [*(sorted(FUSION_HEADS) if FULL else ["cross_modal_transformer"]), ENSEMBLE]
TUNED = "animals"
PRETRAINING = """
objective = "contrastive"
out = "encoders"
[data]
source = "manifest"
path = "pairs.csv"
[text_encoder]
source = "text"
[image_encoder]
source = "image"
[contrastive]
train = ["text", "image"]
width = 16
[optimiser]
max_epochs = 1
"""
SPLIT = "[split]\nfolds = 3\nvalidation_folds = 2\n"
FINE_TUNING = ('train = "lora"', 'train = "last"\nlayers = 1')
"""Of the text encoder and of the image encoder."""


def tuned_bundle(folder: Path) -> Bundle:
    """Adapt both encoders without labels, then train them with a head."""
    folder.mkdir()
    write_csv(folder / "pairs.csv", pairs(folder, 24))
    tiny_encoders(folder, layers=2)
    recipe = folder / "pretraining.toml"
    content = PRETRAINING + SPLIT
    for name in ("text", "image"):
        content = content.replace(f'source = "{name}"', f'source = "{folder / name}"')
    recipe.write_text(content)
    adapted, _ = pretrain(recipe, out=folder / "encoders")
    encoders = adapted / "text_encoder", adapted / "image_encoder"
    path = write_recipe(folder, encoders, "pairs.csv", split=SPLIT)
    content = path.read_text()
    for encoder, how in zip(encoders, FINE_TUNING, strict=True):
        content = content.replace(f'source = "{encoder}"', f'source = "{encoder}"\n{how}')
    path.write_text(content)
    return train(path, out=folder / "bundle")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    made = {one: fusion_bundle(folder / one, one) for one in STRATEGIES if one != ENSEMBLE}
    members = [fusion_bundle(folder / f"member_{one}", one).folder for one in ("late", "gated")]
    ensemble = merge_bundles(members, folder / ENSEMBLE, app=ENSEMBLE)
    return {**made, ENSEMBLE: ensemble, TUNED: tuned_bundle(folder / TUNED)}


@pytest.fixture(scope="module")
def fused(bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository: Path = tmp_path_factory.mktemp("fused")
    for bundle in bundles.values():
        build(bundle, repository=repository, target=TARGET)
    with serve(repository, ports=Ports.free()) as running:
        yield running


@pytest.mark.parametrize("strategy", [*STRATEGIES, TUNED])
def test_it_answers_as_pytorch_with_any_modalities(
    strategy: str, bundles: dict[str, Bundle], fused: Server
) -> None:
    assert bundles[strategy].golden
    with Client(fused.grpc_url, app=strategy) as client:
        for sample in bundles[strategy].golden:
            for key, inputs in (
                ("text,image", {"text": sample.text, "image": sample.image}),
                ("text", {"text": sample.text}),
                ("image", {"image": sample.image}),
            ):
                answer = client.classify(**inputs, timeout_s=20)
                np.testing.assert_allclose(answer.probabilities, sample.expected[key], atol=1e-4)
