"""What is installed, and what imports without what."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    from hatchling.builders.wheel import WheelBuilder

    folder = tmp_path_factory.mktemp("wheel")
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    top = {name.partition("/")[0] for name in wheel.namelist()}
    packages = {"tritium_client", "tritium_builders", "tritium_deploy", "tritium_benchmarks"}
    assert {name for name in top if not name.endswith(".dist-info")} == packages
    names = set(wheel.namelist())
    assert "tritium_client/py.typed" in names
    for servable in ("text_tokenizer", "image_decoder", "engine"):
        assert f"tritium_builders/servables/{servable}.py" in names
    assert "tritium_benchmarks/report/report.html.j2" in names
    for name in ("envoy.yaml", "certificate.yaml"):
        assert f"tritium_deploy/configs/envoy/{name}" in names
    workloads = {path.name for path in (ROOT / "benchmarks" / "workloads").glob("*.toml")}
    held = {f"tritium_benchmarks/workloads/{name}" for name in workloads}
    assert held == {name for name in names if name.endswith(".toml")}
    assert len(held) >= 8
    assert not [name for name in names if name.endswith((".pyc", ".onnx"))]


def test_an_installed_benchmark_finds_its_workloads(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    script = (
        "from tritium_benchmarks.workload import load_workload, workload_names as names\n"
        "print(load_workload('single').name, len(names()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60,
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    name, count = done.stdout.split()
    assert name == "single"
    assert int(count) >= 8


NOT_FOR_SERVING = ["torch", "transformers", "openvino", "onnx", "tomli_w", "safetensors"]
"""Some are not in the extra `serve`, and servers of other targets need none of them."""


@pytest.mark.parametrize(
    ("room", "heavy"),
    [
        ("tritium_client", ["torch", "PIL", "pydantic", "typer", "rich", "openvino"]),
        ("tritium_builders", ["torch", "transformers", "openvino", "onnx", "rich"]),
        ("tritium_builders.commands", ["torch", "transformers", "openvino", "onnx", "rich.table"]),
        ("tritium_builders.release", ["torch", "transformers", "openvino", "onnx"]),
        ("tritium_deploy", ["torch", "grpc", "psutil", "pydantic"]),
        ("tritium_deploy.server", NOT_FOR_SERVING),
        ("tritium_deploy.rollout.operator", NOT_FOR_SERVING),
        ("tritium_deploy.verify", NOT_FOR_SERVING),
    ],
)
def test_a_room_imports_without_what_it_does_not_need(room: str, heavy: list[str]) -> None:
    script = f"import sys, {room}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [
        ("torch", ["build", "."], "build"),
        ("openvino", ["build", "{bundle}"], "build"),
        ("sklearn", ["train", "recipes/openmoji.toml", "--out", "{out}"], "train"),
        ("typer", ["--help"], "cli"),
    ],
)
def test_a_missing_package_is_one_line_that_names_the_extra(
    package: str, arguments: list[str], extra: str, tmp_path: Path
) -> None:
    from tests.support.models import custom_bundle

    if "{bundle}" in arguments:
        custom_bundle(tmp_path / "bundle")
    words = [word.format(bundle=tmp_path / "bundle", out=tmp_path / "out") for word in arguments]
    script = (
        f"import sys; sys.modules[{package!r}] = None; from tritium_client.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        check=False, capture_output=True, text=True, timeout=120, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    (line,) = done.stderr.splitlines()
    assert f"tritium[{extra}]" in line
    assert package in line
