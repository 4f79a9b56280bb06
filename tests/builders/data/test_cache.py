"""The cache: reuse, damage, and a folder that cannot be written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium_builders.data.cache import cache_folder, cached_files, content_key

FILES = {"a.bin": b"content " * 200, "b.bin": b""}


class Counter:
    """Computes FILES and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, bytes]:
        self.calls += 1
        return FILES


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def only_entry() -> Path:
    (path,) = cache_folder().iterdir()
    return path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def test_an_entry_is_computed_once() -> None:
    compute = Counter()
    assert cached_files("x", "key", compute) == FILES
    assert cached_files("x", "key", compute) == FILES
    assert compute.calls == 1
    assert cached_files("x", "other", compute) == FILES
    assert compute.calls == 2


@pytest.mark.parametrize("damage", [truncate, flip_a_byte, empty])
def test_a_damaged_entry_is_computed_again(damage: Callable[[Path], None]) -> None:
    compute = Counter()
    cached_files("x", "key", compute)
    damage(only_entry())
    assert cached_files("x", "key", compute) == FILES
    assert compute.calls == 2
    assert cached_files("x", "key", compute) == FILES
    assert compute.calls == 2


def test_a_crash_while_computing_leaves_nothing() -> None:
    def crash() -> dict[str, bytes]:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        cached_files("x", "key", crash)
    assert not cache_folder().exists()


def test_a_crash_while_writing_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(KeyboardInterrupt):
            cached_files("x", "key", Counter())
    assert list(cache_folder().iterdir()) == []


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file where the folder should be")
    compute = Counter()
    assert cached_files("x", "key", compute) == FILES
    assert cached_files("x", "key", compute) == FILES
    assert compute.calls == 2


@given(st.lists(st.binary()), st.lists(st.binary()))
def test_keys_differ_when_parts_differ(first: list[bytes], second: list[bytes]) -> None:
    assert (content_key(first) == content_key(second)) == (first == second)
