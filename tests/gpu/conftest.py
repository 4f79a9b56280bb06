"""Everything here needs an NVIDIA GPU and TensorRT: `make test-gpu`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.known import known_bundle, sequence_bundle
from tritium_builders import Bundle, Release, build
from tritium_builders.release import Precision
from tritium_builders.tensorrt.machine import Gpu, find_gpu
from tritium_builders.tensorrt.options import TensorRTOptions
from tritium_deploy import Ports, Server, serve
from tritium_deploy.installation import find_installation

OPTIONS = TensorRTOptions(buckets=(16, 48), max_batch=8, cuda_graphs=True, output_copy_stream=True)


@pytest.fixture(scope="session", autouse=True)
def gpu() -> Gpu:
    """The GPU; without one nothing here can run."""
    found = find_gpu()
    if isinstance(found, str):
        pytest.skip(f"needs an NVIDIA GPU: {found}")
    return found


@dataclass(frozen=True)
class Built:
    """A bundle with its TensorRT release."""

    bundle: Bundle
    repository: Path
    release: Release


@pytest.fixture(scope="session", params=["fp32", "fp16", "bf16", "int8"])
def pooled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Pooled features, in every precision; `build` itself holds parity on the GPU."""
    precision: Precision = request.param
    folder = tmp_path_factory.mktemp(f"pooled-{precision}")
    bundle = known_bundle(folder / "known")
    release = build(
        bundle, target="tensorrt", precision=precision, repository=folder / "repository",
        tensorrt=OPTIONS,
    )  # fmt: skip
    return Built(bundle, folder / "repository", release)


@pytest.fixture(scope="session")
def sequence(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A head that attends over tokens and patches."""
    folder = tmp_path_factory.mktemp("sequence")
    bundle = sequence_bundle(folder / "sequence")
    release = build(bundle, target="tensorrt", repository=folder / "repository", tensorrt=OPTIONS)
    return Built(bundle, folder / "repository", release)


@pytest.fixture(scope="session")
def triton_with_tensorrt() -> None:
    """A tritonserver that has the backend: inside NVIDIA's container."""
    if not find_installation().has_backend("tensorrt"):
        pytest.skip(
            "needs a tritonserver with the tensorrt backend (deploy/docker/Dockerfile.serve)"
        )


@pytest.fixture(scope="session")
def server(triton_with_tensorrt: None, pooled: Built) -> Iterator[Server]:
    """A ready server: its golden samples were answered through TensorRT."""
    with serve(pooled.repository, ports=Ports.free()) as running:
        yield running
