"""Who may import whom, and what importing a package may cost."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("client", "builders", "deploy", "benchmarks")
"""Each may import the packages of those before it, and its own."""
PACKAGES = tuple(f"tritium_{room}" for room in ROOMS)
SERVABLES = ROOT / "builders" / "tritium_builders" / "servables"

# Libraries that count as one: what reads pictures, and runtimes of which a servable loads one.
FAMILIES = {
    "PIL": "pictures",
    "cykooz_resizer": "pictures",
    "simplejpeg": "pictures",
    "openvino": "runtimes",
    "onnxruntime": "runtimes",
}
TRITON = {"triton_python_backend_utils"}
HEAVY = {"torch", "transformers", "openvino", "onnxruntime", "onnx", "sklearn", "PIL", "psutil"}


def imported(file: Path) -> Iterator[str]:
    """Top-level names of every import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute"
            yield (node.module or "").partition(".")[0]


def source_files() -> list[Path]:
    return [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("file", source_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_dependencies_point_one_way(file: Path) -> None:
    room = ROOMS.index(file.relative_to(ROOT).parts[0])
    ours = {name for name in imported(file) if name.startswith("tritium_") or name in ROOMS}
    assert ours <= set(PACKAGES[: room + 1])


@pytest.mark.parametrize(
    "file", sorted(SERVABLES.glob("[!_]*.py")), ids=lambda file: str(file.name)
)
def test_a_servable_runs_alone(file: Path) -> None:
    names = set(imported(file)) - TRITON - {"numpy"} - sys.stdlib_module_names
    assert not names & set(PACKAGES)
    families = {FAMILIES.get(name, name) for name in names}
    assert len(families) <= 1, f"more than one library: {sorted(names)}"


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after `code`."""
    script = f"{code}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={"PYTHONPATH": ":".join(str(ROOT / room) for room in ROOMS)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    return {name.partition(".")[0] for name in json.loads(output)}


def test_the_sdk_loads_its_own_dependencies_only() -> None:
    modules = loaded_by("import tritium_client; tritium_client.Client('localhost:1').close()")
    assert {"grpc", "numpy", "tritonclient"} <= modules
    assert not modules & (HEAVY | {"pydantic", "typer", "rich", *PACKAGES[1:]})


def test_the_contract_costs_nothing() -> None:
    modules = loaded_by("import tritium_client.contract")
    assert not modules & (HEAVY | {"grpc", "numpy", "tritonclient", "pydantic", "typer"})


def test_the_command_line_loads_no_room_s_heavy_libraries() -> None:
    modules = loaded_by("from tritium_client import cli; cli.build_app()")
    assert "typer" in modules
    assert not modules & (HEAVY | {"grpc", "tritonclient"})
