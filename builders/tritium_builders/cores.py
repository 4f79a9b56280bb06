"""How many cores this process may use: its affinity, and the quota of its control groups.

A container with `--cpus=2` on a machine of 64 cores may run on all of them, but not for longer than
two of them have time: whoever counts cores there starts 64 threads that wait for each other.

Source: https://docs.kernel.org/admin-guide/cgroup-v2.html (`cpu.max`) and
https://docs.kernel.org/scheduler/sched-bwc.html (`cpu.cfs_quota_us`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def available_cores(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> int:
    """Whole cores that this process may keep busy, at least 1.

    Args:
        groups: Where control groups are mounted.
        membership: Which of them this process is in.
    """
    cores = len(os.sched_getaffinity(0))
    quotas = [quota for folder in _folders(groups, membership) if (quota := _quota(folder))]
    return max(1, min(cores, *(int(quota) for quota in quotas))) if quotas else cores


def _folders(groups: Path, membership: Path) -> Iterator[Path]:
    """The folders of every group that bounds this process, whichever of them are there.

    A container that sees its own group as the root finds it at the mount itself.
    """
    yield from (groups, groups / "cpu", groups / "cpu,cpuacct")
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        mounts = [groups] if not controllers else [groups / controllers, groups / "cpu"]
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in mounts:
            group = PurePosixPath(path.lstrip("/"))
            yield from (mount / part for part in (group, *group.parents))


def _quota(folder: Path) -> float | None:
    """Cores that a group may keep busy; None where it may keep all of them busy."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
            return None if quota == "max" else int(quota) / int(period)
        quota = (folder / "cpu.cfs_quota_us").read_text()
        period = (folder / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):
        return None
