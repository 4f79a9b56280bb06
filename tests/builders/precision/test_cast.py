"""Casting an app's graphs: islands where values overflow, and figures where nothing helps."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest
import torch
from transformers import BertConfig, BertModel

from tests.support.known import known_bundle
from tritium_builders import Bundle
from tritium_builders.components import stage_readers
from tritium_builders.configs import component_graphs
from tritium_builders.errors import CastError, CompileError, ParityError
from tritium_builders.graphs import write_graphs
from tritium_builders.models import HuggingFaceTextEncoder
from tritium_builders.parity import verify
from tritium_builders.precision.graphs import SHARES, cast_graphs, graph_servables, save_samples
from tritium_builders.release import ComponentCast, Precision
from tritium_builders.stages import Servables, StageTensors, run_stages
from tritium_client.contract import Role

BUCKETS = (16, 48)

NAIVE = """
import sys
from pathlib import Path
import onnx
from tritium_builders.precision.cast import Level, run_autocast
from tritium_builders.precision.worker import load_samples
graph, samples, out = map(Path, sys.argv[1:])
onnx.save(run_autocast(graph, "fp16", load_samples(samples), Level(float("inf"))), str(out))
"""
"""A cast to fp16 that looks at no value."""


class App:
    """A bundle's graphs with what its calibration samples put into each."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        self.bundle = bundle
        self.folder = folder
        (folder / "fp32").mkdir(parents=True)
        self.graphs = write_graphs(bundle, folder / "fp32")
        self.readers = {
            role: component.load
            for role, component in stage_readers(bundle, folder, buckets=BUCKETS).items()
        }
        fp32: Servables = {**self.readers, **graph_servables(bundle.manifest, self.graphs)}
        self.calibration: Mapping[Role, StageTensors] = run_stages(
            bundle.manifest, fp32, bundle.calibration or bundle.golden
        )

    def cast(
        self, precision: Precision, folder: Path, share: float = SHARES[0]
    ) -> tuple[dict[Role, Path], dict[Role, ComponentCast]]:
        return cast_graphs(
            self.bundle.manifest, self.graphs, self.calibration, precision, folder, share=share
        )

    def verify(self, graphs: Mapping[Role, Path], precision: Precision) -> None:
        servables: Servables = {**self.readers, **graph_servables(self.bundle.manifest, graphs)}
        verify(self.bundle, servables, precision, buckets=BUCKETS)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> App:
    """An ordinary app."""
    folder = tmp_path_factory.mktemp("ordinary")
    return App(known_bundle(folder / "known"), folder)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> App:
    """An app whose first LayerNorm gets sums beyond fp16's 65,504; fp32 does not mind."""
    torch.manual_seed(3)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    bert = BertModel(config)
    with torch.no_grad():
        for table in (bert.embeddings.word_embeddings, bert.embeddings.position_embeddings):
            table.weight.normal_().clamp_(-1, 1).mul_(40_000)
    folder = tmp_path_factory.mktemp("large")
    encoder = HuggingFaceTextEncoder(bert, "mean").eval()
    return App(known_bundle(folder / "known", "large", text_encoder=encoder), folder)


def test_fp16_passes_parity_and_keeps_inputs_and_outputs(app: App, tmp_path: Path) -> None:
    graphs, casts = app.cast("fp16", tmp_path / "fp16")
    app.verify(graphs, "fp16")
    for role, path in graphs.items():
        before, after = onnx.load(str(app.graphs[role])), onnx.load(str(path))
        for side in ("input", "output"):
            wanted = [(one.name, one.type) for one in getattr(before.graph, side)]
            assert [(one.name, one.type) for one in getattr(after.graph, side)] == wanted
        narrow = {tensor.data_type for tensor in after.graph.initializer}
        assert onnx.TensorProto.FLOAT16 in narrow, role
        assert casts[role].precision == "fp16"
        assert 0.999 < casts[role].cosine <= 1 + 1e-9
        assert casts[role].onnx_bytes == path.stat().st_size


def test_fp32_leaves_the_graphs_as_they_are(app: App, tmp_path: Path) -> None:
    graphs, casts = app.cast("fp32", tmp_path / "fp32")
    assert graphs == app.graphs
    assert {cast.precision for cast in casts.values()} == {"fp32"}
    app.verify(graphs, "fp32")


def test_bf16_and_int8_pass_parity(app: App, tmp_path: Path) -> None:
    graphs, casts = app.cast("bf16", tmp_path / "bf16")
    assert {cast.precision for cast in casts.values()} == {"bf16"}
    app.verify(graphs, "bf16")
    graphs, casts = app.cast("int8", tmp_path / "int8")
    operators = {node.op_type for node in onnx.load(str(graphs["image_encoder"])).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    assert casts["image_encoder"].precision == "int8"
    app.verify(graphs, "int8")


def test_what_overflows_in_fp16_becomes_an_fp32_island(large: App, tmp_path: Path) -> None:
    graphs, casts = large.cast("fp16", tmp_path / "fp16")
    assert any("LayerNormalization" in island for island in casts["text_encoder"].islands)
    assert casts["text_encoder"].cosine > 0.9999
    large.verify(graphs, "fp16")


def test_an_overflow_that_was_cast_fails_parity(large: App, tmp_path: Path) -> None:
    inputs = large.calibration["text_encoder"].inputs
    graph = component_graphs(large.bundle.manifest)["text_encoder"]
    save_samples(tmp_path / "samples", graph, inputs)
    out = tmp_path / "text_encoder.onnx"
    subprocess.run(
        [sys.executable, "-c", NAIVE, large.graphs["text_encoder"], tmp_path / "samples", out],
        check=True, capture_output=True, timeout=200,
    )  # fmt: skip
    with pytest.raises(ParityError, match="stage text_encoder, output text_features") as caught:
        large.verify({**large.graphs, "text_encoder": out}, "fp16")
    assert not caught.value.mismatch.largest_difference <= caught.value.mismatch.tolerance


def test_a_bound_that_no_cast_keeps_is_reported_with_figures(app: App, tmp_path: Path) -> None:
    with pytest.raises(CastError) as caught:
        app.cast("bf16", tmp_path / "bf16", share=1e-9)
    message = str(caught.value)
    assert "stage text_encoder, output bf16 against fp32" in message
    assert "cosine 0.99" in message
    assert "no cast keeps enough of this component" in message


def test_a_graph_that_is_damaged_is_named(app: App, tmp_path: Path) -> None:
    broken = tmp_path / "text_encoder.onnx"
    data = app.graphs["text_encoder"].read_bytes()
    broken.write_bytes(data[: len(data) // 2])
    graphs = {"text_encoder": broken}
    with pytest.raises(CompileError, match="text_encoder: ONNX Runtime refused the graph"):
        cast_graphs(
            app.bundle.manifest, graphs, app.calibration, "fp16", tmp_path / "fp16"  # type: ignore[arg-type]
        )  # fmt: skip
