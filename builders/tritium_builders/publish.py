"""Publishing: staged components -> a release in the repository.

Everything is written once: to a staging folder on the same filesystem, flushed, and renamed into
place; components first, the release's ensembles next, the folder with its release.json last. A
crash at any point leaves folders that nothing refers to, and a repository that serves what it
served before. Only the alias ensembles' configs and the history are ever changed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from tritium_builders.aliases import point_aliases
from tritium_builders.bundle import TOKENIZER, Bundle, file_entry
from tritium_builders.bundle_schema import BundleManifest
from tritium_builders.components import CONFIG, VERSION, StagedComponent
from tritium_builders.configs import MAX_BATCH, release_ensemble, to_pbtxt
from tritium_builders.durable import flush, flush_one
from tritium_builders.errors import PublishError
from tritium_builders.history import (
    HistoryEntry,
    append_history,
    now,
    numbers_in_history,
    whoami,
)
from tritium_builders.names import STATE_FOLDER
from tritium_builders.release import (
    GOLDEN,
    RELEASE_FILE,
    VALIDATION,
    AccuracyReport,
    ComponentCast,
    ParityReport,
    Precision,
    Release,
    RuntimeChoice,
    Target,
    TensorRTRecord,
    app_verb,
    list_releases,
    live_release,
    load_release,
    release_folder,
)
from tritium_builders.samples import sample_files
from tritium_client.contract import VERBS, Role

WEIGHED = ("text_encoder", "image_encoder", "fusion_head")
"""Folders of a bundle that hold what its answers follow from."""
KEEP = ".keep"
"""An ensemble's version folder is empty; some stores and copy tools drop empty folders."""


@dataclass(frozen=True)
class Made:
    """The components of a release, with what was measured on the way."""

    staged: Mapping[Role, StagedComponent]
    parity: ParityReport
    max_batch: int = MAX_BATCH
    casts: Mapping[Role, ComponentCast] = field(default_factory=dict)
    accuracy: AccuracyReport | None = None
    tensorrt: TensorRTRecord | None = None
    choice: RuntimeChoice | None = None


@dataclass(frozen=True)
class Build:
    """What a build made, ready to be published."""

    bundle: Bundle
    made: Made
    target: Target
    precision: Precision
    tools: Mapping[str, str]
    command: str


@contextlib.contextmanager
def staging_area(repository: Path) -> Iterator[Path]:
    """Make a private folder on the repository's filesystem, and remove it afterwards.

    Folders that a killed build on this host left behind are removed, too.
    """
    state = repository / STATE_FOLDER
    state.mkdir(parents=True, exist_ok=True)
    host = re.sub(r"\W", "_", socket.gethostname())
    for left in state.glob(f"staging-{host}-*"):
        pid = int(left.name.removeprefix(f"staging-{host}-").split("-")[0])
        if not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"staging-{host}-{os.getpid()}-", dir=state))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(repository: Path, build: Build, staging: Path) -> Release:
    """Publish a build as the next release of its app.

    The first release of an app becomes live; a later one waits for a rollout.

    Args:
        repository: A Triton model repository.
        build: What was built and passed parity.
        staging: From `staging_area`, the folder that holds the staged components.

    Raises:
        PublishError: when the repository holds something else under a component's name.
        OSError: when the disk is full.
    """
    with repository_lock(repository):
        _require_same_verb(repository, build.bundle.manifest)
        number = _next_number(repository, build.bundle.manifest.app)
        release = _describe(build, number)
        for component in build.made.staged.values():
            _install_component(repository, component, release)
        _install_ensembles(repository, build, number, staging)
        _install_release(repository, build, release, staging)
        _make_live_if_first(repository, release)
        _append_history(repository, release)
    return release


def complete(repository: Path, release: Release) -> None:
    """Finish what an interrupted publish left open: an app whose first release is not live."""
    with repository_lock(repository):
        _make_live_if_first(repository, release)


@contextlib.contextmanager
def repository_lock(repository: Path) -> Iterator[None]:
    """Let one process at a time change the repository; it is held for milliseconds."""
    with (repository / STATE_FOLDER / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _require_same_verb(repository: Path, manifest: BundleManifest) -> None:
    """Callers of an app rely on what it does: a release cannot change that."""
    verb = app_verb(repository, manifest.app)
    if verb != manifest.verb and list_releases(repository, manifest.app):
        raise PublishError(
            f"app {manifest.app} has releases that {verb}, and this bundle is for "
            f"{manifest.task}; give it another app name"
        )


def _next_number(repository: Path, app: str) -> int:
    """One more than any number that was ever used, by a complete release or by debris."""
    names = rf"{app}_(?:{'|'.join(VERBS)})(?:_text|_image)?"
    used = [0]
    for path in repository.iterdir():
        if match := re.fullmatch(rf"{names}_r(\d+)", path.name):
            used.append(int(match[1]))
        elif re.fullmatch(names, path.name):
            used += [int(version.name) for version in path.iterdir() if version.name.isdigit()]
    used += numbers_in_history(repository, app)
    return max(used) + 1


def _describe(build: Build, number: int) -> Release:
    manifest = build.bundle.manifest
    return Release(
        app=manifest.app,
        number=number,
        task=manifest.task,
        labels=manifest.labels,
        thresholds=manifest.thresholds,
        units=manifest.units,
        space=_space(build.bundle),
        entry_points=manifest.entry_points,
        target=build.target,
        precision=build.precision,
        components={role: component.describe() for role, component in build.made.staged.items()},
        bundle_hash=build.bundle.hash,
        tools=dict(build.tools),
        parity=build.made.parity,
        max_batch=build.made.max_batch,
        casts=dict(build.made.casts),
        accuracy=build.made.accuracy,
        tensorrt=build.made.tensorrt,
        choice=build.made.choice,
        command=build.command,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _space(bundle: Bundle) -> str | None:
    """Name the space of an app's vectors: the same weights, tokenizer and preprocessing.

    How they are computed is not part of it: parity holds every target close to PyTorch.
    """
    manifest = bundle.manifest
    if manifest.task != "embedding":
        return None
    digest = hashlib.sha256(manifest.text.model_dump_json().encode())
    digest.update(manifest.image.model_dump_json().encode())
    for name, entry in sorted(manifest.files.items()):
        if name == TOKENIZER or name.partition("/")[0] in WEIGHED:
            digest.update(f"\n{name} {entry.sha256}".encode())
    return digest.hexdigest()[:12]


def _install_component(repository: Path, component: StagedComponent, release: Release) -> None:
    """Move a component into place, or reuse the one that is there with the same content."""
    final = repository / component.model
    if not final.exists():
        flush(component.folder)
        component.folder.rename(final)
        flush_one(repository)
        return
    for name, file in release.components[component.role].files.items():
        path = final / name
        if path.suffix == ".pyc":  # follows from the interpreter that compiled it
            continue
        if not path.is_file() or file_entry(path).sha256 != file.sha256:
            raise PublishError(
                f"{path}: differs from what its name says; a file of a published component was "
                f"changed. Remove {final} (no release can use it any more) and build again"
            )


def _install_ensembles(repository: Path, build: Build, number: int, staging: Path) -> None:
    manifest = build.bundle.manifest
    models = {role: component.model for role, component in build.made.staged.items()}
    for given in manifest.entry_points:
        config = release_ensemble(
            manifest, number, given, models, build.target, build.precision, build.made.max_batch
        )
        folder = staging / config.name
        (folder / VERSION).mkdir(parents=True)
        (folder / VERSION / KEEP).touch()
        (folder / CONFIG).write_text(to_pbtxt(config), encoding="utf-8")
        flush(folder)
        folder.rename(repository / config.name)
    flush_one(repository)


def _install_release(repository: Path, build: Build, release: Release, staging: Path) -> None:
    """Rename the version folders into the aliases' folders; the one with release.json last."""
    for given in reversed(release.entry_points):
        alias = repository / release.alias(given)
        alias.mkdir(exist_ok=True)
        folder = staging / f"{alias.name}-{release.number}"
        folder.mkdir()
        (folder / KEEP).touch()
        final = alias / str(release.number)
        if given == release.entry_points[0]:
            files = {
                **sample_files(GOLDEN, build.bundle.golden),
                **sample_files(VALIDATION, build.bundle.validation),
                RELEASE_FILE: release.model_dump_json(indent=2).encode(),
            }
            for name, content in files.items():
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(content)
        flush(folder)
        folder.rename(final)
        flush_one(alias)


def _make_live_if_first(repository: Path, release: Release) -> None:
    if live_release(repository, release.app) is None:
        point_aliases(repository, release)


def find_release(
    repository: Path, app: str, *, tensorrt_options: object = None, **wanted: object
) -> Release | None:
    """Find an app's newest complete release whose fields have these values.

    Args:
        repository: Where.
        app: Whose.
        tensorrt_options: What its plans were built with; None for the other targets.
        **wanted: Field of `Release` -> value.
    """
    for number in reversed(list_releases(repository, app)):
        release = load_release(release_folder(repository, app, number))
        options = None if release.tensorrt is None else release.tensorrt.options
        if options == tensorrt_options and all(
            getattr(release, name) == value for name, value in wanted.items()
        ):
            return release
    return None


def _append_history(repository: Path, release: Release) -> None:
    entry = HistoryEntry(
        when=now(),
        who=whoami(),
        action="publish",
        release=release.number,
        live=live_release(repository, release.app),
    )
    append_history(repository, release.app, entry)
