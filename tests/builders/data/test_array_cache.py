"""Arrays kept one by one: found again, repaired, merged, and never more than the limit."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tritium_builders.data import array_cache
from tritium_builders.data.array_cache import ArrayCache
from tritium_builders.data.cache import cache_folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def arrays(*names: str, rows: int = 1, first: float = 0.0) -> dict[str, array_cache.Array]:
    """Of unequal lengths, as texts are."""
    return {
        name: np.full((rows + index, 3), first + index, dtype=np.float32)
        for index, name in enumerate(names)
    }


def shards() -> list[Path]:
    return sorted(cache_folder().glob("*/*.zip"))


def test_what_is_kept_is_found_and_the_rest_is_not() -> None:
    cache = ArrayCache("some", "key")
    cache.write(arrays("a", "b"))
    cache.write(arrays("c", first=7))
    found = ArrayCache("some", "key").read(["a", "c", "d"])
    assert found.keys() == {"a", "c"}
    np.testing.assert_array_equal(found["c"], np.full((1, 3), 7))
    assert cache.read(["b"])["b"].shape == (2, 3)
    assert ArrayCache("some", "other key").read(["a"]) == {}


def test_a_damaged_shard_holds_nothing() -> None:
    cache = ArrayCache("some", "key")
    cache.write(arrays("a"))
    (shard,) = shards()
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert cache.read(["a"]) == {}
    cache.write(arrays("a"))
    assert cache.read(["a"]).keys() == {"a"}


def test_many_small_shards_become_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_cache, "MOST_SMALL", 4)
    cache = ArrayCache("some", "key")
    names = [f"item {number}" for number in range(9)]
    for name in names:
        cache.write(arrays(name))
        assert len(shards()) <= 4
    assert cache.read(names).keys() == set(names)


def test_what_was_not_used_for_longest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    caches = [ArrayCache("some", f"key {number}") for number in range(3)]
    for age, cache in enumerate(caches):
        cache.write(arrays("a", rows=100))
        newest = max(shards(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (1e9 + age, 1e9 + age))
    assert caches[0].read(["a"])  # used now, though written first
    monkeypatch.setattr(array_cache, "MOST_BYTES", 3 * shards()[0].stat().st_size)
    ArrayCache("some", "key 3").write(arrays("a", rows=100))
    assert [bool(cache.read(["a"])) for cache in caches] == [True, False, True]


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file where the folder would be")
    cache = ArrayCache("some", "key")
    cache.write(arrays("a"))
    assert cache.read(["a"]) == {}
