"""`tritium build --precision` on a CPU: what is served keeps its gates, and says what it costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import openvino
import pytest

from tritium_builders import Bundle, build, choose, cpu
from tritium_builders.cpu import candidates
from tritium_builders.errors import AccuracyError, CompileError
from tritium_builders.precision import accuracy
from tritium_builders.release import AccuracyReport, RuntimeChoice

needs_bf16 = pytest.mark.skipif(not cpu.has_bf16(), reason="this CPU has no bfloat16 units")


def test_auto_is_measured_against_every_runtime_in_fp32() -> None:
    assert [str(one) for one in candidates("auto", "auto")] == [
        "openvino", "onnxruntime", "openvino bf16", "openvino int8",
    ]  # fmt: skip
    assert [str(one) for one in candidates("onnxruntime", "auto")] == ["onnxruntime"]
    assert [str(one) for one in candidates("auto", "int8")] == ["openvino int8"]


@pytest.mark.parametrize(
    ("target", "precision", "words"),
    [
        ("onnxruntime", "int8", "int8 on a CPU is OpenVINO's.*use --target openvino"),
        ("auto", "fp16", "fp16 is for --target tensorrt; on a CPU use bf16, int8 or auto"),
        ("tensorrt", "auto", "precision auto is for CPUs; .*use one of fp32, fp16, bf16, int8"),
        ("auto", "fp8", "precision 'fp8' is not known; use one of fp32, .*auto"),
    ],
)
def test_a_precision_that_a_target_lacks_is_refused(
    custom: Bundle, tmp_path: Path, target: Any, precision: Any, words: str
) -> None:
    with pytest.raises(CompileError, match=words):
        build(custom, target=target, precision=precision, repository=tmp_path)
    assert not list(tmp_path.iterdir())


def test_bf16_is_refused_where_the_cpu_would_compute_fp32(
    custom: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8", "BIN"])
    with pytest.raises(CompileError, match="bf16 needs a CPU with bfloat16 units"):
        build(custom, precision="bf16", repository=tmp_path)
    assert not list(tmp_path.glob("*_classify"))


@needs_bf16
def test_bf16_is_rounded_passes_its_gates_and_says_what_it_costs(
    custom: Bundle, tmp_path: Path
) -> None:
    release = build(custom, precision="bf16", repository=tmp_path)
    assert (release.target, release.precision) == ("openvino", "bf16")
    assert release.accuracy is not None
    assert release.accuracy.points >= -0.5
    features = [stage for stage in release.parity.stages if stage.smallest_cosine is not None]
    # fp32 is at 1e-6: it was rounded, and not beyond recognition.
    assert 1e-4 < max(stage.largest_difference for stage in features) < 0.15
    assert "--precision bf16" in release.command
    assert build(custom, precision="bf16", repository=tmp_path).number == release.number
    assert build(custom, target="openvino", repository=tmp_path).number == release.number + 1


def test_int8_keeps_heads_in_fp32_and_lists_what_stayed(custom: Bundle, tmp_path: Path) -> None:
    release = build(custom, precision="int8", repository=tmp_path)
    assert (release.target, release.precision) == ("openvino", "int8")
    assert release.casts["text_encoder"].precision == "int8"
    assert release.casts["fusion_head"].precision == "fp32"
    said = release.casts["text_encoder"].islands
    assert "weighted nodes in int8" in said[0]
    assert all(line.startswith("fp32: ") for line in said[1:])
    assert release.tools.keys() >= {"openvino", "nvidia-modelopt"}
    assert release.accuracy is not None


def test_auto_takes_no_precision_that_fails_a_gate_and_says_why(
    custom: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "ROUND_S", 0.02)
    monkeypatch.setattr("tritium_builders.cpu.SHARES", (0.5,))

    def refuse(_report: AccuracyReport, precision: str) -> None:
        raise AccuracyError(f"{precision} loses too much", "Use another")

    monkeypatch.setattr(accuracy, "require_accuracy", refuse)
    release = build(custom, precision="auto", repository=tmp_path)
    assert release.precision == "fp32"
    assert release.choice is not None
    assert release.choice.per_second.keys() == {"openvino", "onnxruntime"}
    assert release.choice.refused.keys() == {"openvino bf16", "openvino int8"}
    assert release.choice.refused["openvino int8"] == "int8 loses too much"
    # Asked again, nothing is measured; and fp32 that was not chosen is another release.
    assert build(custom, precision="auto", repository=tmp_path).number == release.number
    assert build(custom, repository=tmp_path).number == release.number + 1


def test_what_openvino_cannot_run_is_one_line(
    custom: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("Exception from core.cpp:132:\nno kernel for node Softmax_118\n")

    monkeypatch.setattr(cpu, "has_bf16", lambda: True)
    monkeypatch.setattr(cpu, "verify", refuse)
    with pytest.raises(CompileError, match=r"run bf16 on this CPU: no kernel for node Softmax_118"):
        build(custom, precision="bf16", repository=tmp_path)


@needs_bf16
def test_auto_takes_the_fastest_of_those_that_pass(
    custom: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_bf16_is_fast(
        bundle: Bundle, load: Any, progress: Callable[[str], None]
    ) -> RuntimeChoice:
        del bundle, progress
        rates = {one: 2.0 if one.precision == "bf16" else 1.0 for one in load}
        return choose.decide(rates, dict.fromkeys(load, 1.0), 1)

    monkeypatch.setattr(cpu, "choose", only_bf16_is_fast)
    release = build(custom, precision="auto", repository=tmp_path)
    assert (release.target, release.precision) == ("openvino", "bf16")
    assert release.choice is not None
    assert release.choice.precision == "bf16"
    assert release.parity.tolerance.probabilities == 0.1
    assert release.accuracy is not None
