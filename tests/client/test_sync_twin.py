"""The sync client is the async one without its awaits: same methods, same arguments, same code."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tritium_client import AsyncClient, Client
from tritium_client._async import _io as async_io
from tritium_client._sync import _io as sync_io

ROOT = Path(__file__).parents[2]
WAIT_FOR_NOTHING = {"classify_many", "embed_many", "shadow_report"}
"""What is no coroutine in the async client, either."""
WRITTEN_TWICE = {"__init__.py", "_io.py", "many.py", "race.py"}
SYNC = ROOT / "client" / "tritium_client" / "_sync"


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "tools" / "generate_sync.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_sync_client_was_generated_from_what_stands_there(tmp_path: Path) -> None:
    """When this fails: `make sync-client`."""
    written = generator().generate(tmp_path / "_sync")
    assert {path.name for path in written} | WRITTEN_TWICE == {
        path.name for path in SYNC.glob("*.py")
    }
    for path in written:
        assert path.read_text("utf-8") == (SYNC / path.name).read_text("utf-8"), path.name


def public(client: type) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(client).items()
        if not name.startswith("_") and callable(value)
    }


def test_both_have_the_same_methods_with_the_same_arguments() -> None:
    assert list(public(AsyncClient)) == list(public(Client))
    for name, method in public(AsyncClient).items():
        assert inspect.iscoroutinefunction(method) == (name not in WAIT_FOR_NOTHING), name
        twin = public(Client)[name]
        theirs = inspect.signature(twin).parameters
        assert list(inspect.signature(method).parameters) == list(theirs), name
    made = [inspect.signature(one.__init__).parameters for one in (AsyncClient, Client)]
    assert list(made[0]) == list(made[1])


def test_what_is_written_twice_has_the_same_names() -> None:
    def names(module: ModuleType) -> set[str]:
        return {name for name in vars(module) if not name.startswith("_")} - {
            "annotations", "asyncio", "time", "threading", "contextvars", "Callable", "Coroutine",
            "ThreadPoolExecutor",
        }  # fmt: skip

    assert names(async_io) == names(sync_io)


@pytest.mark.parametrize(
    "path",
    sorted(set(SYNC.glob("*.py")) - {SYNC / name for name in WRITTEN_TWICE}),
    ids=lambda path: path.name,
)
def test_nothing_async_is_left_in_the_sync_client(path: Path) -> None:
    text = path.read_text("utf-8").replace("tritium_client/_async", "").replace("`_async/", "")
    for word in ("await ", "async ", "Async", "asyncio"):
        assert word not in text, word
