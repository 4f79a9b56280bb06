"""What several rooms' tests share: the demo app's bundle, trained once as the README says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

RECIPE = Path(__file__).parents[1] / "recipes" / "openmoji.toml"


ROOMS = (
    ("tests/builders/training/test_train.py", "demo"),
    ("tests/builders/training/", "training"),
    ("tests/e2e/test_fusion_strategies.py", "small"),
    ("tests/e2e/test_tasks.py", "small"),
    ("tests/e2e/", "demo"),
    ("tests/docs/", "demo"),
    ("tests/builders/tensorrt/", "tensorrt"),
    ("tests/builders/precision/", "tensorrt"),
    ("tests/deploy/rollout/", "rollout"),
    ("tests/deploy/envoy/", "envoy"),
    ("tests/deploy/chaos/", "envoy"),
)
"""Where a test lies -> its room, the first that fits; of the others, the folder is the room. Those
of `demo` share the trained demo app, those of `small` serve small apps of their own."""


LONGEST_FIRST = (
    "demo", "builders", "client", "training", "tensorrt", "small", "rollout", "envoy", "deploy",
)  # fmt: skip
"""Two workers take the rooms in this order; a long one at the end would leave one of them idle."""


def room_of(nodeid: str) -> str:
    """The room of a test: the tests of a room share slow fixtures, and so one worker."""
    path = nodeid.partition("::")[0]
    chosen = [room for place, room in ROOMS if path.startswith(place)]
    return (*chosen, *path.split("/")[1:-1], "other")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of a room together, and long rooms first."""

    def place(item: pytest.Item) -> int:
        room = room_of(item.nodeid)
        return LONGEST_FIRST.index(room) if room in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a room on one of xdist's workers."""
    from xdist.scheduler import LoadScopeScheduling

    class ByRoom(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return room_of(nodeid)

    return ByRoom(config, log)


@pytest.fixture(scope="session", autouse=True)
def admin_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Servers leave their admin keys here, and not where those of whoever runs the tests lie."""
    folder = tmp_path_factory.mktemp("runtime")
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    yield folder
    os.environ.pop("XDG_RUNTIME_DIR")
    if before is not None:
        os.environ["XDG_RUNTIME_DIR"] = before


@pytest.fixture(scope="session", autouse=True)
def translations_read_once() -> Iterator[None]:
    """PyTorch's exporter collects its translations to ONNX anew for each graph, which takes half
    of the time of a small one. They are the same each time."""
    if "torch" not in sys.modules:  # these tests export nothing
        yield
        return
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    read = ONNXRegistry.from_torchlib
    first: dict[object, ONNXRegistry] = {}

    def from_torchlib(*arguments: int, **named: int) -> ONNXRegistry:
        key = (arguments, *named.items())
        if key not in first:
            first[key] = read(*arguments, **named)
        found = copy(first[key])
        found.functions = {name: list(ways) for name, ways in first[key].functions.items()}
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(from_torchlib))
        yield


@dataclass(frozen=True)
class TrainedDemo:
    """The demo bundle and what `tritium train --json` printed."""

    folder: Path
    printed: dict[str, Any]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> TrainedDemo:
    """`tritium train recipes/openmoji.toml`, with the user's own cache folder."""
    folder = tmp_path_factory.mktemp("demo") / "openmoji"
    done = tritium("train", str(RECIPE), "--out", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    return TrainedDemo(folder, json.loads(done.stdout))


def tritium(*arguments: str, timeout_s: float = 400) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    main = "from tritium_client.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", main, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
