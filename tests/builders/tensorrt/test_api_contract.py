"""Every part of TensorRT's API that an engine build uses is in the TensorRTs that users have.

Builds run on TensorRT-RTX, without a GPU; what they used is looked up in the bindings of TensorRT
itself (`tests.support.tensorrt_api`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.support.tensorrt_api import (
    Recording,
    download_bindings,
    missing,
    record,
    stub_libraries,
)
from tritium_builders.release import ProfileShape
from tritium_builders.tensorrt.worker import PlanAnswer, PlanRequest

VERSIONS = ("10.9.0.34", "10.16.1.11", "11.4.0.106")

TARGETS = "TensorRT builds for the GPU at hand; TensorRT-RTX's CreateConfigRTX names its targets"
ONLY_IN_RTX = {
    "ComputeCapability": TARGETS,
    "IBuilderConfig.num_compute_capabilities": TARGETS,
    "IBuilderConfig.set_compute_capability": TARGETS,
}
"""What a recorded build uses, and TensorRT lacks, with the reason that it may."""

BUILD = """
from pathlib import Path

from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
from polygraphy.backend.trt import (
    CreateConfig, EngineBytesFromNetwork, NetworkFromOnnxPath, Profile
)
from polygraphy.mod.trt_importer import lazy_import_trt

trt = lazy_import_trt()
GRAPHS = {
    "dense.onnx": [Profile().add("x", (1, 4), (2, 4), (8, 4))],
    "ids.onnx": [Profile().add("ids", (1, n), (2, n), (8, n)) for n in (4, 16)],
}

def options(profiles):
    return dict(
        profiles=profiles,
        memory_pool_limits={trt.MemoryPoolType.WORKSPACE: 1 << 24},
        load_timing_cache="timing.cache",
        hardware_compatibility_level=trt.HardwareCompatibilityLevel.AMPERE_PLUS,
        builder_optimization_level=2,
    )

for graph, profiles in GRAPHS.items():  # the second build of each has a timing cache to load
    for config in (
        CreateConfigRTX(compute_capabilities=[(8, 0), (8, 9)], **options(profiles)),
        CreateConfig(**options(profiles)),
    ):
        network = NetworkFromOnnxPath(graph, strongly_typed=True)
        plan = EngineBytesFromNetwork(network, config, save_timing_cache="timing.cache")()
        Path("model.plan").write_bytes(plan)

# TensorRT-RTX sets what follows, and has no lean runtime to build a plan with it.
builder, network, _ = NetworkFromOnnxPath("ids.onnx", strongly_typed=True)()
level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
CreateConfig(
    profiles=GRAPHS["ids.onnx"], version_compatible=True, hardware_compatibility_level=level
)(builder, network)
"""

Bindings = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def bindings(tmp_path_factory: pytest.TempPathFactory) -> Bindings:
    """The bindings of a version of TensorRT, and the libraries to import them with."""
    folder = tmp_path_factory.mktemp("tensorrt")

    @cache
    def downloaded(version: str) -> tuple[Path, Path]:
        found = download_bindings(version, folder)
        return found, stub_libraries(found, folder / f"stubs-{version}")

    return downloaded


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recording of a build of two graphs, with the options that users have."""
    folder = tmp_path_factory.mktemp("build")
    write_graphs(folder)
    (folder / "build.py").write_text(BUILD)
    record(folder / "build.json", "build.py", folder=folder)
    return folder / "build.json"


@pytest.fixture(scope="module", params=["on a GPU", "ahead of time"])
def worker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recording of our own worker: as `build` starts it on a GPU, and as `--check` does."""
    folder = tmp_path_factory.mktemp("worker")
    write_graphs(folder)
    shapes = [ProfileShape(min=[1, n], opt=[2, n], max=[8, n]) for n in (4, 16)]
    asked = PlanRequest(
        graph=folder / "ids.onnx",
        plan=folder / "model.plan",
        profiles=[{"ids": shape} for shape in shapes],
        compute_capabilities=[] if request.param == "on a GPU" else [(8, 6)],
        workspace_mib=64,
        timing_cache=folder / "timing.cache",
        hardware_compatibility="ampere_plus",
        optimisation_level=2,
    )
    (folder / "request.json").write_text(asked.model_dump_json())
    command = ("-m", "tritium_builders.tensorrt.worker", "request.json", "answer.json")
    record(folder / "worker.json", *command, folder=folder)
    answer = PlanAnswer.model_validate_json((folder / "answer.json").read_bytes())
    assert answer.error is None
    assert (folder / "model.plan").stat().st_size == answer.plan_bytes
    return folder / "worker.json"


@pytest.mark.parametrize("version", VERSIONS)
def test_tensorrt_has_everything_that_our_worker_uses(
    worker: Path, bindings: Bindings, version: str
) -> None:
    found = missing(worker, *bindings(version))
    assert {name: why for name, why in found.items() if name not in ONLY_IN_RTX} == {}


def write_graphs(folder: Path) -> None:
    """A dense layer, and the mean embedding of ids; both of any batch."""
    import numpy as np
    from onnx import NodeProto, TensorProto, helper, numpy_helper, save

    def write(name: str, nodes: list[NodeProto], kind: int, shape: list[str | int]) -> None:
        taken = helper.make_tensor_value_info(nodes[0].name, kind, shape)
        given = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
        weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "weight")
        graph = helper.make_graph(nodes, name, [taken], [given], [weight])
        opset = helper.make_opsetid("", 17)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=9)
        save(model, folder / f"{name}.onnx")

    dense = [helper.make_node("MatMul", ["x", "weight"], ["y"], "x")]
    write("dense", dense, TensorProto.FLOAT, ["batch", 4])
    embedding = [
        helper.make_node("Gather", ["weight", "ids"], ["rows"], "ids"),
        helper.make_node("ReduceMean", ["rows"], ["y"], axes=[1], keepdims=0),
    ]
    write("ids", embedding, TensorProto.INT64, ["batch", "length"])


@pytest.mark.parametrize("version", VERSIONS)
def test_tensorrt_has_everything_that_a_build_uses(
    build: Path, bindings: Bindings, version: str
) -> None:
    found = missing(build, *bindings(version))
    assert {name: why for name, why in found.items() if name not in ONLY_IN_RTX} == {}


def test_what_tensorrt_may_lack_is_used_and_lacking(build: Path, bindings: Bindings) -> None:
    used = Recording.read(build).everything
    lacking = {name for version in VERSIONS for name in missing(build, *bindings(version))}
    assert ONLY_IN_RTX.keys() - used == set(), "is no longer used"
    assert ONLY_IN_RTX.keys() - lacking == set(), "is in every version by now"


def test_a_recorded_build_shows_how_polygraphy_builds(build: Path) -> None:
    recording = Recording.read(build)
    assert (
        recording.calls.items()
        >= {
            "Builder.create_network": {(0, ("flags",))},
            "Builder.build_serialized_network": {(2, ())},
            "OnnxParser.parse_from_file": {(1, ())},
            "IOptimizationProfile.set_shape": {(4, ())},
            "IBuilderConfig.add_optimization_profile": {(1, ())},
            "IBuilderConfig.set_memory_pool_limit": {(2, ())},
            "IBuilderConfig.set_timing_cache": {(1, ("ignore_mismatch",))},
            "ITimingCache.combine": {(1, ("ignore_mismatch",))},
            "ILogger.__init__": {(0, ())},  # by the logger that Polygraphy derives
        }.items()
    )
    assert recording.members >= {
        "BuilderFlag.TF32",
        "BuilderFlag.VERSION_COMPATIBLE",
        "HardwareCompatibilityLevel.AMPERE_PLUS",
        "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    }
    assert recording.reads >= {"ITensor.shape", "INetworkDefinition.num_inputs"}
    assert recording.writes >= {
        "IBuilderConfig.builder_optimization_level",
        "IBuilderConfig.hardware_compatibility_level",
    }


def test_probes_and_refused_calls_are_no_use(tmp_path: Path) -> None:
    (tmp_path / "probes.py").write_text(
        "import sys\n"
        "import tensorrt_rtx as trt\n"
        "assert sys.argv[1:] == ['--flag']\n"
        "builder = trt.Builder(trt.Logger(min_severity=trt.Logger.ERROR))\n"
        "assert not hasattr(trt, 'Nothing')\n"
        "assert not hasattr(trt.BuilderFlag, 'NOTHING')\n"
        "assert not hasattr(builder, 'nothing')\n"
        "try:\n"
        "    builder.create_network(made_up=1)\n"
        "except TypeError:\n"
        "    builder.create_network()\n"
        "sys.exit(0)\n"
    )
    recording = record(tmp_path / "out.json", "-m", "probes", "--flag", folder=tmp_path)
    assert recording == Recording(
        names={"Builder", "BuilderFlag", "Logger"},
        members={"Logger.ERROR"},
        methods={"Builder.__init__", "Builder.create_network", "Logger.__init__"},
        calls={
            "Builder.__init__": {(1, ())},
            "Builder.create_network": {(0, ())},
            "Logger.__init__": {(0, ("min_severity",))},
        },
    )


def test_what_a_tensorrt_does_not_have_is_named(tmp_path: Path, bindings: Bindings) -> None:
    Recording(
        names={"Builder", "IInt8Calibrator", "_itemsize", "__version__"},
        members={"BuilderFlag.FP16", "BuilderFlag.TF32", "MadeUp.MEMBER", "MadeUp.OTHER"},
        methods={"ILayer.precision_is_set", "ITensor.set_dimension_name"},
        reads={"Builder.create_network", "ITensor.made_up", "ITensor.shape"},
        writes={"ITensor.is_network_input", "ITensor.name"},
        calls={
            "IBuilderConfig.set_timing_cache": {(1, ()), (1, ("ignore_mismatch",)), (2, ())},
            "OnnxParser.parse": {(1, ()), (2, ()), (1, ("path",)), (3, ())},
            "OnnxParser.parse_from_file": {(1, ()), (0, ("model",))},
            "init_libnvinfer_plugins": {(2, ()), (0, ("logger", "namespace")), (3, ())},
        },
    ).write(tmp_path / "used.json")
    everywhere = {
        "Builder.create_network": "is no property",
        "IBuilderConfig.set_timing_cache": "does not take (...)",
        "ITensor.is_network_input": "is read-only",
        "ITensor.made_up": "is missing",
        "MadeUp": "is missing",
        "OnnxParser.parse": "does not take (..., ..., ...)",
        "_itemsize": "is missing",
        "init_libnvinfer_plugins": "does not take (..., ..., ...)",
    }
    assert missing(tmp_path / "used.json", *bindings("11.4.0.106")) == {
        **everywhere,
        "BuilderFlag.FP16": "is missing",
        "IInt8Calibrator": "is missing",
        "ILayer.precision_is_set": "is missing",
    }
    assert missing(tmp_path / "used.json", *bindings("10.9.0.34")) == {
        **everywhere,
        "ILayer.precision_is_set": "is no method",
    }


def test_a_keyword_that_no_overload_has_is_named(tmp_path: Path, bindings: Bindings) -> None:
    Recording(
        calls={
            "Builder.create_network": {(0, ("flags",)), (0, ("made_up",)), (1, ("flags",))},
            "Dims.__init__": {(0, ()), (1, ()), (0, ("shape",)), (0, ("made_up",))},
        },
    ).write(tmp_path / "used.json")
    for version in VERSIONS:
        assert missing(tmp_path / "used.json", *bindings(version)) == {
            "Builder.create_network": "does not take (made_up=) or (..., flags=)",
            "Dims.__init__": "does not take (made_up=)",
        }
