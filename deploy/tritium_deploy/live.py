"""What a repository has to serve: releases of its apps, checked before Triton sees them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tritium_builders.cores import available_cores
from tritium_builders.errors import BundleError, PublishError, SignatureError
from tritium_builders.release import (
    GOLDEN,
    Release,
    list_apps,
    live_release,
    read_release,
    release_folder,
)
from tritium_builders.samples import Sample, read_samples
from tritium_builders.signing import TrustedKeys, verify_release
from tritium_client import contract
from tritium_deploy.accelerator import Accelerator, require_plans_fit
from tritium_deploy.errors import RepositoryError, TuningError, UnsignedError
from tritium_deploy.installation import Installation
from tritium_deploy.machine import Machine, installed_packages
from tritium_deploy.tuning import Tuning


@dataclass(frozen=True)
class AppRelease:
    """One release of an app, as one server runs it."""

    name: str
    """The app's."""
    release: Release
    golden: tuple[Sample, ...]
    instances: dict[str, int]
    """Component model -> how many stubs it starts; 0 for a backend without stubs."""
    configs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Component model -> the config that a tuning gives it; the others have the repository's."""

    @property
    def components(self) -> tuple[str, ...]:
        """The Triton models of the components that are loaded."""
        return tuple(component.model for component in self.release.loaded.values())

    @property
    def entry_points(self) -> dict[str, list[contract.Modality]]:
        """The ensembles that callers name -> the modalities that they take."""
        return {self.release.alias(names): names for names in self.release.entry_points}

    @property
    def graphs(self) -> dict[str, list[contract.Modality]]:
        """The release's own ensembles, which entry points stand for -> their modalities."""
        return {self.release.graph(names): names for names in self.release.entry_points}


def load_live_apps(
    repository: Path,
    apps: Sequence[str] | None,
    installation: Installation,
    accelerator: Accelerator | None = None,
    trusted: TrustedKeys | None = None,
) -> tuple[AppRelease, ...]:
    """Read and check what is live in a repository.

    Args:
        repository: A Triton model repository that `tritium build` published into.
        apps: Which apps; None for every app with a live release.
        installation: The tritonserver that has to run them.
        accelerator: What it runs plans with; None for nothing.
        trusted: Who must have signed them; None: they need no signature.

    Raises:
        RepositoryError: naming what is missing or wrong, and the fix.
        PlanMismatchError: when a release's plans are for another TensorRT or another GPU.
        UnsignedError: when one is not signed, or is not what was signed.
    """
    if not repository.is_dir():
        raise RepositoryError(f"repository {repository} does not exist; run `tritium build` first")
    present = [app for app in list_apps(repository) if live_release(repository, app) is not None]
    if not present:
        raise RepositoryError(f"repository {repository} has no live app; run `tritium build` first")
    missing = sorted(set(apps or ()) - set(present))
    if missing:
        raise RepositoryError(
            f"app {missing[0]} has no live release in {repository}; it has: {', '.join(present)}"
        )
    chosen = [app for app in present if apps is None or app in apps]
    accelerator = accelerator or Accelerator()
    return tuple(_load(repository, app, installation, accelerator, trusted) for app in chosen)


def machines(
    live: Sequence[AppRelease], tunings: Sequence[Tuning], *, response_cache: bool = False
) -> dict[str, Machine]:
    """How this machine runs each app's releases: its cores, with tuning files over that.

    Raises:
        TuningError: a tuning is for an app that is not served, or there are two for one app.
    """
    apps = [app.name for app in live]
    twice = {name for name, count in Counter(one.app for one in tunings).items() if count > 1}
    if twice:
        raise TuningError(f"app {min(twice)} has two tuning files; give --tuning once for each app")
    for tuning in tunings:
        if tuning.app not in apps:
            raise TuningError(
                f"the tuning is for app {tuning.app}, and served are: {', '.join(apps)}"
            )
    tuned = {tuning.app: tuning for tuning in tunings}
    cores = available_cores()
    # Under a quota the same cores are other containers', too: keeping to them is standing in line.
    own_cores = len(live) == 1 and cores == len(os.sched_getaffinity(0))
    packages = installed_packages()
    return {
        app: Machine(
            cores=cores,
            own_cores=own_cores,
            tuning=tuned.get(app),
            response_cache=response_cache,
            packages=packages,
        )
        for app in apps
    }


def on_machine(app: AppRelease, machine: Machine, repository: Path) -> AppRelease:
    """Give a release the configs that it runs with on a machine.

    Raises:
        TuningError: the machine's tuning file does not fit the release.
    """
    configs = machine.configs(app.release, partial(read_config, repository))
    instances = {
        model: config.instance_group[0].count
        for model, config in configs.items()
        if app.instances[model]
    }
    return replace(app, configs=configs, instances={**app.instances, **instances})


def _load(
    repository: Path,
    app: str,
    installation: Installation,
    accelerator: Accelerator,
    trusted: TrustedKeys | None,
) -> AppRelease:
    number = live_release(repository, app)
    if number is None:
        raise RepositoryError(f"app {app} has no live release any more; run `tritium build`")
    return read_app_release(repository, app, number, installation, accelerator, trusted=trusted)


def read_app_release(
    repository: Path,
    app: str,
    number: int,
    installation: Installation | None = None,
    accelerator: Accelerator | None = None,
    *,
    whole: bool = True,
    trusted: TrustedKeys | None = None,
) -> AppRelease:
    """Read one release, and check that all of its files are there.

    Args:
        repository: Where it was published.
        app: Whose.
        number: Which.
        installation: The tritonserver that has to run it; None where that is on another machine.
        accelerator: What that runs plans with; None likewise.
        whole: Check its components' files; False for one that is served already, and may have to
            be left because of them.
        trusted: Who must have signed it; None: it needs no signature.

    Raises:
        RepositoryError: naming what is missing or wrong, and the fix.
        PlanMismatchError: its plans are for another TensorRT or another GPU.
        UnsignedError: it is not signed, or is not what was signed.
    """
    try:
        folder = release_folder(repository, app, number)
        release = read_release(repository, app, number)
        if trusted is not None:
            require_signed(repository, release, trusted)
        golden = read_samples(folder, GOLDEN)
    except (PublishError, BundleError) as error:
        raise RepositoryError(f"app {app}, release {number}: {error}") from error
    if accelerator is not None:  # before backends are looked for: it has the better words
        require_plans_fit(release, accelerator)
    if not golden:
        raise RepositoryError(
            f"app {app}, release {number}: no golden samples; build the release again"
        )
    stubs = {
        component.model: _check_component(repository, component, installation, whole=whole)
        for component in release.components.values()
    }
    instances = {component.model: stubs[component.model] for component in release.loaded.values()}
    found = AppRelease(app, release, golden, instances)
    for graph in found.graphs:
        _check_graph(repository, graph, found)
    return found


def require_signed(repository: Path, release: Release, trusted: TrustedKeys) -> None:
    """Refuse a release that nobody signed whom a server trusts, or that was changed since.

    Raises:
        UnsignedError: naming the file, where one was changed.
    """
    try:
        verify_release(repository, release, trusted)
    except SignatureError as error:
        raise UnsignedError(str(error)) from error


def _check_graph(repository: Path, graph: str, app: AppRelease) -> None:
    config = read_config(repository, graph)
    wire = config.parameters[contract.PARAM_WIRE_VERSION].string_value
    if wire.split(".")[0] != contract.WIRE_VERSION.split(".")[0]:
        raise RepositoryError(
            f"{graph} speaks wire contract {wire or '?'} and this Tritium speaks "
            f"{contract.WIRE_VERSION}; build the release again with this version"
        )
    labels = config.parameters[contract.PARAM_LABELS].string_value
    if json.loads(labels or "[]") != app.release.labels:
        raise RepositoryError(
            f"{graph} has other labels, or in another order, than release.json; build the release "
            "again"
        )
    known = {component.model for component in app.release.loaded.values()}
    unknown = sorted({step.model_name for step in config.ensemble_scheduling.step} - known)
    if unknown:
        raise RepositoryError(
            f"{graph} runs {unknown[0]}, which is no component of release.json; build the release "
            "again"
        )


def _check_component(
    repository: Path, component: Any, installation: Installation | None, *, whole: bool
) -> int:
    folder = repository / component.model
    for path, published in component.files.items() if whole else ():
        try:
            size = (folder / path).stat().st_size
        except OSError as error:
            raise RepositoryError(
                f"{folder / path} is missing ({error.strerror}); build the release again"
            ) from error
        if size != published.bytes:
            raise RepositoryError(
                f"{folder / path} has {size} bytes and was published with {published.bytes}; "
                "build the release again"
            )
    config = read_config(repository, component.model)
    if installation is not None and not installation.has_backend(config.backend):
        raise RepositoryError(
            f"component {component.model} needs Triton's {config.backend} backend, which "
            f"{installation.binary} does not have; build for another target, or give "
            "--tritonserver one that has it"
        )
    if config.backend != "python":
        return 0
    return sum(max(group.count, 1) for group in config.instance_group) or 1


def read_config(repository: Path, model: str) -> Any:
    """Read a model's config.pbtxt, a `ModelConfig` protobuf.

    Raises:
        RepositoryError: when it is missing or no config.
    """
    path = repository / model / "config.pbtxt"
    try:
        return text_format.Parse(path.read_text("utf-8"), model_config_pb2.ModelConfig())
    except OSError as error:
        raise RepositoryError(
            f"{path} cannot be read ({error.strerror}); build the release again"
        ) from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise RepositoryError(f"{path} is not a model config: {error}; build it again") from error
