"""A TensorRT release in a repository: what is published, reused, linted, and served."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from tests.support.known import known_bundle, sequence_bundle
from tests.support.no_gpu import NoGpu, on_the_cpu
from tritium_builders import Bundle, Release, build
from tritium_builders.components import CONFIG
from tritium_builders.errors import CompileError, ParityError
from tritium_builders.graphs import load_model
from tritium_builders.lint import lint_repository
from tritium_builders.precision.reference import ReferenceRuntime
from tritium_builders.release import load_release, release_folder
from tritium_builders.tensorrt import make
from tritium_builders.tensorrt.machine import BuildMachine, Gpu
from tritium_builders.tensorrt.options import TensorRTOptions
from tritium_client import Client, contract
from tritium_deploy import Ports, serve
from tritium_deploy.control import ModelControl
from tritium_deploy.errors import ControlError, PlanMismatchError
from tritium_deploy.installation import find_installation
from tritium_deploy.triton import Triton, TritonOptions

OPTIONS = TensorRTOptions(buckets=(16, 48), max_batch=8)
ENGINES = {
    "text_encoder", "image_encoder", "fusion_head", "fusion_head_text", "fusion_head_image",
}  # fmt: skip


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        yield context


@pytest.fixture(scope="module")
def no_gpu(patch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> NoGpu:
    return NoGpu(patch, tmp_path_factory.mktemp("graphs"))


@dataclass(frozen=True)
class Published:
    """A bundle with its TensorRT release."""

    bundle: Bundle
    repository: Path
    release: Release


@pytest.fixture(scope="module")
def pooled(no_gpu: NoGpu, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Pooled features, cast to fp16."""
    folder = tmp_path_factory.mktemp("pooled")
    bundle = known_bundle(folder / "known")
    release = build(
        bundle, target="tensorrt", precision="fp16", repository=folder / "repository",
        tensorrt=OPTIONS,
    )  # fmt: skip
    return Published(bundle, folder / "repository", release)


@pytest.fixture(scope="module")
def sequence(no_gpu: NoGpu, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A head that attends over tokens and patches, in fp32."""
    folder = tmp_path_factory.mktemp("sequence")
    bundle = sequence_bundle(folder / "sequence")
    release = build(bundle, target="tensorrt", repository=folder / "repository", tensorrt=OPTIONS)
    return Published(bundle, folder / "repository", release)


@pytest.fixture(params=["pooled", "sequence"])
def published(request: pytest.FixtureRequest) -> Published:
    found: Published = request.getfixturevalue(request.param)
    return found


def config_of(published: Published, model: str) -> pb.ModelConfig:
    text = (published.repository / model / CONFIG).read_text("utf-8")
    return text_format.Parse(text, pb.ModelConfig())


def test_the_release_says_what_its_plans_were_built_with(published: Published) -> None:
    folder = release_folder(published.repository, published.bundle.manifest.app, 1)
    release = load_release(folder)
    assert release == published.release
    built = release.tensorrt
    assert built is not None
    assert (built.version, built.compute_capability) == ("10.13.2.6", "8.6")
    assert built.options == OPTIONS.describe()
    assert set(built.plans) == ENGINES
    assert set(release.casts) == ENGINES
    lengths = [profile["input_ids"].max for profile in built.plans["text_encoder"].profiles]
    assert lengths == [[8, 16], [8, 48]]
    assert release.max_batch == 8
    for plan in built.plans.values():
        assert plan.layers > 5
    for cast in release.casts.values():
        assert cast.precision == release.precision
        assert len(cast.onnx_sha256) == 64
    assert (release.accuracy is None) == (release.precision == "fp32")
    assert release.tools["tensorrt"] == "10.13.2.6"
    assert "--target tensorrt" in release.command
    assert "--buckets 16,48 --max-batch 8" in release.command


def test_no_step_has_a_larger_batch_than_its_entry_point(published: Published) -> None:
    for path in published.repository.glob(f"*/{CONFIG}"):
        assert config_of(published, path.parent.name).max_batch_size == 8


def test_the_linter_finds_nothing(published: Published) -> None:
    assert lint_repository(published.repository).findings == ()


def test_the_same_build_is_not_made_twice(pooled: Published, no_gpu: NoGpu) -> None:
    before = list(no_gpu.built)
    again = build(
        pooled.bundle, target="tensorrt", precision="fp16", repository=pooled.repository,
        tensorrt=OPTIONS,
    )  # fmt: skip
    assert again == pooled.release
    assert no_gpu.built == before


def test_a_retrained_head_takes_the_encoders_plans(
    pooled: Published, no_gpu: NoGpu, tmp_path: Path
) -> None:
    """Plans take minutes, and differ from build to build: they are named by what made them."""
    retrained = known_bundle(tmp_path / "known", head_seed=9)
    no_gpu.built.clear()
    release = build(
        retrained, target="tensorrt", precision="fp16", repository=pooled.repository,
        tensorrt=OPTIONS,
    )  # fmt: skip
    assert release.number == 2
    assert set(no_gpu.built) == {"fusion_head", "fusion_head_text", "fusion_head_image"}
    for role in ("text_tokenizer", "image_decoder", "text_encoder", "image_encoder"):
        assert release.components[role] == pooled.release.components[role]
    assert lint_repository(pooled.repository).findings == ()


@pytest.mark.parametrize(
    "machine",
    [
        pytest.param(BuildMachine("10.14.1.48", Gpu("NVIDIA A10", (8, 6))), id="another TensorRT"),
        pytest.param(BuildMachine("10.13.2.6", Gpu("NVIDIA L4", (8, 9))), id="another GPU"),
    ],
)
def test_another_machine_builds_its_own_plans(
    sequence: Published, no_gpu: NoGpu, machine: BuildMachine
) -> None:
    with pytest.MonkeyPatch.context() as context:
        context.setattr(no_gpu, "machine", machine)
        no_gpu.built.clear()
        release = build(
            sequence.bundle, target="tensorrt", repository=sequence.repository, tensorrt=OPTIONS
        )
    assert release.number > 1
    assert set(no_gpu.built) == ENGINES
    assert release.components["text_encoder"] != sequence.release.components["text_encoder"]
    assert release.components["text_tokenizer"] == sequence.release.components["text_tokenizer"]


def test_a_plan_that_answers_otherwise_on_the_gpu_is_not_published(
    no_gpu: NoGpu, tmp_path: Path, sequence: Published
) -> None:
    class Wrong(ReferenceRuntime):
        def __call__(self, inputs: dict) -> dict:  # type: ignore[type-arg]
            return {name: values + 1 for name, values in super().__call__(inputs).items()}

    with pytest.MonkeyPatch.context() as context:
        context.setattr(make, "PlanRuntime", lambda plan, _: Wrong(no_gpu.graph_of(plan)))
        with pytest.raises(ParityError, match="stage text_encoder"):
            build(
                sequence.bundle, target="tensorrt", repository=tmp_path / "repository",
                tensorrt=OPTIONS,
            )  # fmt: skip
    assert [path.name for path in (tmp_path / "repository").iterdir()] == [".tritium"]


def test_a_bucket_above_the_encoders_positions_is_refused(
    pooled: Published, tmp_path: Path
) -> None:
    with pytest.raises(
        CompileError, match=r"bucket 513 is above the text encoder's positions.*--buckets 16,48$"
    ):
        build(
            pooled.bundle, target="tensorrt", repository=tmp_path / "repository",
            tensorrt=TensorRTOptions(buckets=(16, 48, 513)),
        )  # fmt: skip


@pytest.mark.parametrize("mebibytes", [pytest.param(1, marks=pytest.mark.full), 8])
def test_a_full_disk_ends_the_check_in_one_line(
    pooled: Published, tmp_path: Path, mebibytes: int
) -> None:
    """1 MiB: the exported graphs do not fit; 8 MiB: they do, and a plan does not."""
    command = (
        f"mount -t tmpfs -o size={mebibytes}m tmpfs {tmp_path} && TMPDIR={tmp_path} "
        f"{sys.executable} -c 'from tritium_client.cli import main; main()' build "
        f"{pooled.bundle.folder} --target tensorrt --check --compute-capability 8.6"
    )
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", command],
        check=False, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    (line,) = done.stderr.splitlines()
    assert "No space left on device" in line


def test_serve_refuses_plans_before_it_starts_anything(published: Published) -> None:
    with pytest.raises(
        PlanMismatchError, match=r"plans of TensorRT 10\.13\.2\.6, and this server has no TensorRT"
    ):
        serve(published.repository, ports=Ports.free())


def test_without_a_gpu_the_build_says_what_is_missing(pooled: Published, tmp_path: Path) -> None:
    from tests.conftest import tritium

    folder = pooled.bundle.folder
    done = tritium("build", str(folder), "--target", "tensorrt", "--buckets", "16,48")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "an NVIDIA GPU" in line
    assert f"build {folder} --target tensorrt --buckets 16,48" in line


@pytest.mark.e2e
def test_the_real_server_lacks_nothing_but_the_backend(
    published: Published, tmp_path: Path
) -> None:
    ports = Ports.free()
    options = TritonOptions(published.repository.absolute(), ports, log=tmp_path / "triton.log")
    triton = Triton(find_installation(), options)
    control = ModelControl(f"127.0.0.1:{ports.grpc}")
    try:
        triton.start(control)
        for role, component in published.release.components.items():
            if role not in ENGINES:
                control.load(component.model, 60)
                continue
            with pytest.raises(ControlError, match="unable to find backend library") as caught:
                control.load(component.model, 60)
            assert "backend 'tensorrt'" in caught.value.reason
        for given in published.release.entry_points:
            alias = published.release.alias(given)
            with pytest.raises(ControlError) as caught:
                control.load(alias, 60)
            assert "unable to find backend library for backend 'tensorrt'" in caught.value.reason
    finally:
        triton.stop(keep_log=True)
        control.close()


@pytest.mark.e2e
def test_the_real_server_serves_the_graph_with_padded_texts(
    published: Published, no_gpu: NoGpu, tmp_path: Path
) -> None:
    """Ensembles, buckets and warm-up requests as published; only the engines are not TensorRT's."""
    app = published.bundle.manifest.app
    repository = on_the_cpu(published.repository, published.bundle, no_gpu, tmp_path / "repository")
    for folder in repository.glob(f"{app}_classify*/*"):
        file = folder / "release.json"
        if file.is_file():  # serve would refuse plans, and check files that are not there
            document = json.loads(file.read_text("utf-8"))
            document |= {"tensorrt": None, "target": "onnxruntime"}
            for component in document["components"].values():
                component["files"] = {}
            file.write_text(json.dumps(document), "utf-8")
    with (
        serve(repository, ports=Ports.free()) as server,
        Client(server.grpc_url, app=app) as client,
    ):
        pytorch = load_model(published.bundle)
        labels = published.bundle.manifest.labels
        image = published.bundle.golden[0].image
        for length in (1, 14, 15, 40, 200):
            text = " ".join(["apple", "tree"] * length)
            expected = pytorch.answer(text, image, [["text", "image"], ["text"]]).values
            for given, answer in (
                ("text,image", client.classify(text=text, image=image, top_k=len(labels))),
                ("text", client.classify(text=text, top_k=len(labels))),
            ):
                found = {one.label: one.probability for one in answer.ranking}
                assert [found[label] for label in labels] == pytest.approx(
                    expected[given].tolist(),
                    abs=published.release.parity.tolerance.probabilities,
                )
        config = ModelControl(server.grpc_url).config(f"{app}_classify")
        assert config.parameters[contract.PARAM_SERVER_TENSORRT].string_value == "none"
        assert config.parameters[contract.PARAM_SERVER_COMPUTE_CAPABILITY].string_value == "none"
        assert config.parameters[contract.PARAM_TARGET].string_value == "tensorrt"
