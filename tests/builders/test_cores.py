"""Quotas of control groups, as containers have them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tritium_builders.cores import available_cores

CORES = set(range(64))


@pytest.fixture(autouse=True)
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: CORES)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("files", "membership", "expected"),
    [
        pytest.param({}, "", 64, id="no group"),
        pytest.param({"cpu.max": "200000 100000\n"}, "0::/\n", 2, id="a container's own root"),
        pytest.param({"cpu.max": "max 100000\n"}, "0::/\n", 64, id="no quota"),
        pytest.param({"cpu.max": "50000 100000\n"}, "0::/\n", 1, id="half a core"),
        pytest.param({"cpu.max": "370000 100000\n"}, "0::/\n", 3, id="three and a part"),
        pytest.param(
            {"a/cpu.max": "400000 100000\n", "a/b/cpu.max": "max 100000\n"}, "0::/a/b\n", 4,
            id="of the group above",
        ),
        pytest.param(
            {"cpu/docker/x/cpu.cfs_quota_us": "600000\n",
             "cpu/docker/x/cpu.cfs_period_us": "100000\n"},
            "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n", 6, id="version 1",
        ),
        pytest.param(
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            "4:cpu:/\n", 64, id="version 1 without a quota",
        ),
        pytest.param({"cpu.max": "who knows\n"}, "0::/\n", 64, id="not understood"),
    ],
)  # fmt: skip
def test_a_quota_counts_in_whole_cores(
    files: dict[str, str], membership: str, expected: int, tmp_path: Path
) -> None:
    groups = tmp_path / "groups"
    for name, text in files.items():
        write(groups / name, text)
    write(tmp_path / "membership", membership)
    assert available_cores(groups, tmp_path / "membership") == expected


def test_fewer_cores_than_the_quota_are_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3})
    write(tmp_path / "cpu.max", "800000 100000\n")
    assert available_cores(tmp_path, tmp_path / "none") == 1
