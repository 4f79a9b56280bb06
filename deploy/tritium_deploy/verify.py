"""Is a repository what was published? Its files against release.json, with no server anywhere.

A copy that stopped half-way, a bad disk or a hand that edited in place shows here, before a server
starts on it: in an init container, after a restore, in CI.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tritium_builders.aliases import live_rollout
from tritium_builders.bundle import file_entry
from tritium_builders.release import Release, list_apps, list_releases, live_release
from tritium_deploy.errors import RepositoryError
from tritium_deploy.live import read_app_release

OnFile = Callable[[str, int], None]
"""Told of each file that was compared: its path in the repository, and its bytes."""


@dataclass(frozen=True)
class VerifiedRelease:
    """A release whose every file is as it was published."""

    app: str
    number: int
    live: bool
    files: int
    size: int
    """Bytes of all components' files."""


def verify_repository(
    repository: Path,
    apps: Sequence[str] | None = None,
    *,
    every_release: bool = False,
    on_file: OnFile = lambda _path, _size: None,
) -> tuple[VerifiedRelease, ...]:
    """Compare the releases of a repository with their release.json, file by file.

    Args:
        repository: What `tritium build` published into.
        apps: Which apps; None for all of them.
        every_release: All releases, and not only those that a server starts with: the live one
            and the candidate that gets a share.
        on_file: Told of each file.

    Returns:
        What was verified, by app and number.

    Raises:
        RepositoryError: the first thing that is not as published, and what to do.
    """
    if not repository.is_dir():
        raise RepositoryError(f"repository {repository} does not exist; run `tritium build` first")
    present = list_apps(repository)
    missing = sorted(set(apps or ()) - set(present))
    if missing or not present:
        has = f"it has: {', '.join(present)}" if present else "it has none; run `tritium build`"
        raise RepositoryError(f"no app {missing[0] if missing else ''} in {repository}; {has}")
    return tuple(
        _verify(repository, app, number, on_file)
        for app in present
        if apps is None or app in apps
        for number in (list_releases if every_release else _served)(repository, app)
    )


def find_changed_file(
    repository: Path, release: Release, on_file: OnFile = lambda _path, _size: None
) -> str | None:
    """Compare every file of a release with what release.json says; None where all are as published.

    Returns:
        The first file that is not, and what to do, in one line.
    """
    for component in release.components.values():
        for name, published in component.files.items():
            path = repository / component.model / name
            try:
                found = file_entry(path)
            except OSError as error:
                return f"{path} cannot be read ({error.strerror}); build the release again"
            if found.sha256 != published.sha256:
                return (
                    f"{path} differs from what was published (SHA-256 {found.sha256[:12]} in place "
                    f"of {published.sha256[:12]}); build the release again"
                )
            on_file(f"{component.model}/{name}", published.bytes)
    return None


def _served(repository: Path, app: str) -> list[int]:
    """The releases that a server starts with."""
    live = live_release(repository, app)
    if live is None:
        raise RepositoryError(
            f"app {app} has no live release in {repository}; promote one, or verify --all"
        )
    rollout = live_rollout(repository, app)
    return sorted({live} | ({rollout.candidate} if rollout is not None else set()))


def _verify(repository: Path, app: str, number: int, on_file: OnFile) -> VerifiedRelease:
    release = read_app_release(repository, app, number).release
    fault = find_changed_file(repository, release, on_file) or _find_foreign_file(
        repository, release
    )
    if fault is not None:
        raise RepositoryError(f"app {app}, release {number}: {fault}")
    sizes = [file.bytes for part in release.components.values() for file in part.files.values()]
    live = live_release(repository, app) == number
    return VerifiedRelease(app, number, live, len(sizes), sum(sizes))


def _find_foreign_file(repository: Path, release: Release) -> str | None:
    """A file in a component's folder that nobody published: Triton might load it."""
    for component in release.components.values():
        folder = repository / component.model
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if not path.is_dir() and name not in component.files:
                return f"{path} is not of the release; remove it"
    return None
