"""`pip install tritium` alone, as an application's developer has it: old and new Python and numpy.

Nothing of this run is in those environments, so what the SDK needs besides its own dependencies
would be missing there. What it loads where everything is installed: tests/test_dependencies.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.support.demo_repository import APP
from tests.support.triton import TritonServer

from tritium_client import Classification, Client

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
FULL = bool(os.environ.get("TRITIUM_TEST_FULL"))
SUPPORTED = ((3, 10), (3, 11), (3, 12), (3, 13))
HEAVY = (
    "torch", "transformers", "tokenizers", "openvino", "onnxruntime", "onnx", "sklearn", "PIL",
    "pydantic", "typer", "rich", "psutil",
)  # fmt: skip
OTHER_ROOMS = ("tritium_builders", "tritium_deploy", "tritium_benchmarks")

ASK = """
import sys
from importlib.util import find_spec

import tritium_client
from tritium_client import AsyncClient, Client, InvalidInput

url, app = sys.argv[1:]
with Client(url, app=app) as client:
    imported = sorted({name.partition(".")[0] for name in sys.modules})
    answer = client.classify(text="four", image=b"\\x01")
    many = [item.unwrap().label for item in client.classify_many([("a", None), ("ab", None)])]
    import numpy
    try:
        client.classify(image=numpy.zeros((2, 2, 3), numpy.uint8))
        refused = ""
    except InvalidInput as error:
        refused = error.reason

import asyncio


async def ask():
    async with AsyncClient(url, app=app) as client:
        return (await client.classify(text="four", image=b"\\x01")).label


import json

print(json.dumps({
    "python": list(sys.version_info[:2]),
    "numpy": numpy.__version__,
    "folder": tritium_client.__path__[0],
    "imported": imported,
    "label": answer.label,
    "ranking": [[ranked.label, ranked.probability] for ranked in answer.ranking],
    "probabilities": answer.probabilities.tolist(),
    "release": answer.release,
    "many": many,
    "refused": refused,
    "async": asyncio.run(ask()),
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python of this machine that the SDK supports."""

    version: tuple[int, int]
    path: str

    @property
    def name(self) -> str:
        return "{}.{}".format(*self.version)


@cache
def at_hand() -> tuple[Interpreter, ...]:
    """One interpreter for each version that there is, lowest first; the running one is always."""
    found = {sys.version_info[:2]: sys.executable}
    for version in SUPPORTED:
        name = "python{}.{}".format(*version)
        pyenv = sorted(Path.home().glob(f".pyenv/versions/{name[6:]}.*/bin/python"))
        on_path = shutil.which(name)
        for path in [*map(str, pyenv), *([on_path] if on_path else [])]:
            if version not in found and version_of(path) == version:
                found[version] = path
    return tuple(Interpreter(version, found[version]) for version in sorted(found))


def version_of(path: str) -> tuple[int, int] | None:
    """Ask it: a name on PATH may be a shim of a version manager that has no such Python."""
    script = "import sys, venv, ensurepip; print(*sys.version_info[:2])"
    done = subprocess.run(
        [path, "-I", "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    words = done.stdout.split() if done.returncode == 0 else []
    return (int(words[0]), int(words[1])) if len(words) == 2 else None


def lowest() -> Interpreter:
    return at_hand()[0]


def running() -> Interpreter:
    return next(one for one in at_hand() if one.version == sys.version_info[:2])


def highest() -> Interpreter:
    if at_hand()[-1] == running():
        pytest.skip(f"no Python above the running {running().name} at hand: the case `running`")
    return at_hand()[-1]


def running_unless_there_is_a_higher() -> Interpreter:
    """Both with numpy 2, which takes half a minute each: `make test-full` has both."""
    if at_hand()[-1] != running() and not FULL:
        pytest.skip(f"Python {at_hand()[-1].name} is at hand: the case `highest`")
    return running()


@dataclass(frozen=True)
class Environment:
    """A fresh virtual environment with the wheel, its dependencies, and one numpy."""

    python: Path
    interpreter: Interpreter
    numpy_major: int


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from hatchling.builders.wheel import WheelBuilder

    folder = tmp_path_factory.mktemp("wheel")
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return Path(path)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((lowest, "numpy==1.26.4"), id="lowest-numpy-1"),
        pytest.param((running_unless_there_is_a_higher, "numpy>=2,<3"), id="running-numpy-2"),
        pytest.param((highest, "numpy>=2,<3"), id="highest-numpy-2"),
    ],
)
def environment(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Environment]:
    choose: Callable[[], Interpreter]
    choose, numpy = request.param
    interpreter = choose()
    if interpreter.version >= (3, 13) and numpy == "numpy==1.26.4":
        pytest.skip(f"numpy 1.26 has no wheel for Python {interpreter.name}, the lowest at hand")
    folder = tmp_path_factory.mktemp("alone")
    python = folder / "bin" / "python"
    for command in (
        [interpreter.path, "-m", "venv", "--without-pip", str(folder)],
        [
            sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet",
            "--disable-pip-version-check", "--only-binary=:all:", str(wheel), numpy,
        ],
    ):  # fmt: skip
        run(command, folder)
    yield Environment(python, interpreter, int(re.findall(r"\d+", numpy)[0]))
    shutil.rmtree(folder)


def run(command: list[str], folder: Path) -> str:
    """Run where none of this repository's packages can be found."""
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=outside, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def printed(environment: Environment, server: TritonServer) -> Any:
    """What `ASK` found in it; `python -I` leaves PYTHONPATH and the current folder out."""
    command = [str(environment.python), "-I", "-W", "error", "-c", ASK, server.url, APP]
    return json.loads(run(command, environment.python.parent))


@pytest.fixture(scope="module")
def here(server: TritonServer) -> Classification:
    """What the same call is answered in this process."""
    with Client(server.url, app=APP) as client:
        return client.classify(text="four", image=b"\x01")


def test_it_classifies_as_here(
    environment: Environment, printed: Any, here: Classification
) -> None:
    assert tuple(printed["python"]) == environment.interpreter.version
    assert int(printed["numpy"].partition(".")[0]) == environment.numpy_major
    assert Path(printed["folder"]).is_relative_to(environment.python.parents[1])
    assert (printed["label"], printed["release"]) == (here.label, here.release)
    assert printed["probabilities"] == here.probabilities.tolist()
    assert printed["ranking"] == [[item.label, item.probability] for item in here.ranking]
    assert printed["async"] == here.label


def test_many_items_and_refusals_need_nothing_more(printed: Any, server: TritonServer) -> None:
    with Client(server.url, app=APP) as client:
        assert printed["many"] == [client.classify(text=text).label for text in ("a", "ab")]
    assert "pip install pillow" in printed["refused"]


def test_nothing_heavy_is_installed_or_loaded(environment: Environment, printed: Any) -> None:
    script = (
        "import json; from importlib.util import find_spec; "
        f"print(json.dumps([name for name in {HEAVY} if find_spec(name)]))"
    )
    folder = environment.python.parent
    assert json.loads(run([str(environment.python), "-I", "-c", script], folder)) == []
    assert {"grpc", "numpy", "tritium_client"} <= set(printed["imported"])
    assert not set(printed["imported"]) & {*HEAVY, *OTHER_ROOMS}
