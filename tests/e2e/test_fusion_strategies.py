"""Heads of fusion strategies that the demo app does not have, served by Triton."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import FULL, TARGET
from tests.support.known import fusion_bundle
from tritium_builders import Bundle, build
from tritium_builders.ensembles.merge import merge_bundles
from tritium_builders.models import FUSION_HEADS
from tritium_client import Client
from tritium_deploy import Ports, Server, serve

pytestmark = pytest.mark.e2e
ENSEMBLE = "ensemble"
# One over tokens and patches with a mask, and two bundles that have become one.
STRATEGIES = [*(sorted(FUSION_HEADS) if FULL else ["cross_modal_transformer"]), ENSEMBLE]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    made = {one: fusion_bundle(folder / one, one) for one in STRATEGIES if one != ENSEMBLE}
    members = [fusion_bundle(folder / f"member_{one}", one).folder for one in ("late", "gated")]
    return {**made, ENSEMBLE: merge_bundles(members, folder / ENSEMBLE, app=ENSEMBLE)}


@pytest.fixture(scope="module")
def fused(bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository: Path = tmp_path_factory.mktemp("fused")
    for bundle in bundles.values():
        build(bundle, repository=repository, target=TARGET)
    with serve(repository, ports=Ports.free()) as running:
        yield running


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_answers_as_pytorch_with_any_modalities(
    strategy: str, bundles: dict[str, Bundle], fused: Server
) -> None:
    with Client(fused.grpc_url, app=strategy) as client:
        for sample in bundles[strategy].golden:
            for key, inputs in (
                ("text,image", {"text": sample.text, "image": sample.image}),
                ("text", {"text": sample.text}),
                ("image", {"image": sample.image}),
            ):
                answer = client.classify(**inputs, timeout_s=20)
                np.testing.assert_allclose(answer.probabilities, sample.expected[key], atol=1e-4)
