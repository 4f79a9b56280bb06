"""`tritium build --target tensorrt --check` on the demo app: all that needs no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import TrainedDemo, tritium
from tests.support.command_line import tritium_inside
from tests.support.known import known_bundle
from tritium_builders.tensorrt.check import CheckReport

BUCKETS = [16, 32, 64, 128, 256]


@pytest.mark.parametrize(
    "precision",
    ["fp32", *(pytest.param(reduced, marks=pytest.mark.full) for reduced in ("fp16", "int8"))],
)
def test_the_demo_app_casts_passes_its_gates_and_builds_ahead_of_time(
    demo: TrainedDemo, precision: str
) -> None:
    done = tritium(
        "build", str(demo.folder), "--target", "tensorrt", "--precision", precision, "--check",
        "--compute-capability", "8.6", "--compute-capability", "8.9", "--json",
        timeout_s=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = CheckReport.model_validate_json(done.stdout)
    assert report.precision == precision
    assert report.compute_capabilities == ["8.6", "8.9"]
    assert report.buckets == BUCKETS
    for component in report.components.values():
        assert component.layers > 20  # a head of one modality is a perceptron
        assert component.plan_bytes > 1_000_000
        assert component.seconds > 0
    text = report.components["text_encoder"]
    assert [profile["input_ids"].opt[1] for profile in text.profiles] == BUCKETS
    for profile in text.profiles:
        assert profile["input_ids"] == profile["attention_mask"]
    assert text.operators["MatMul"] == 48
    assert report.components["image_encoder"].operators["Conv"] == 49
    if precision == "fp32":
        assert report.accuracy is None
        return
    assert report.accuracy is not None
    assert report.accuracy.labelled
    assert report.accuracy.points >= -0.5
    assert text.cast.onnx_bytes < 70_000_000
    if precision == "int8":
        assert text.cast.precision == report.components["image_encoder"].cast.precision == "int8"
        assert text.operators["QuantizeLinear"] > 20


def test_people_see_what_was_built_and_what_was_not_proved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    bundle = known_bundle(tmp_path / "known")
    done = tritium(
        "build", str(bundle.folder), "--target", "tensorrt", "--check", "--buckets", "16,48"
    )
    assert done.returncode == 0, done.stderr
    for words in ("TensorRT for RTX", "2: 16, 48 tokens", "fusion_head_image", "parity"):
        assert words in done.stdout
    assert "Not shown here: that the plans" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compute-capability", "9.9"], "compute capability 9.9 is none that TensorRT for RTX"),
        (["--compute-capability", "sm_86"], "written like 8.6, and not 'sm_86'"),
        (["--buckets", "16,32"], "buckets 16,32 end below the bundle's max_length of 256"),
        (["--buckets", "16,256,600"], "bucket 600 is above the text encoder's positions"),
    ],
)
def test_what_cannot_be_checked_is_one_line(
    demo: TrainedDemo, arguments: list[str], message: str
) -> None:
    done = tritium_inside("build", str(demo.folder), "--target", "tensorrt", "--check", *arguments)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert message in line


def test_tensorrt_options_are_for_tensorrt(demo: TrainedDemo) -> None:
    for arguments in (
        ["--check"],
        ["--cuda-graphs"],
        ["--target", "tensorrt", "--compute-capability", "8.6"],
    ):
        done = tritium_inside("build", str(demo.folder), *arguments)
        assert done.returncode == 2
    done = tritium_inside("build", str(demo.folder), "--precision", "fp16")
    assert done.returncode == 1
    assert "fp16 is for --target tensorrt" in done.stderr
