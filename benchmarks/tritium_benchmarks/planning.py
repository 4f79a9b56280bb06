"""From what a user asks for to a plan that can be run; what can be wrong is told here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritium_benchmarks.contenders import CONTENDERS, TRITIUM, TWIN, Contender, Subject
from tritium_benchmarks.errors import BenchmarkError
from tritium_benchmarks.fairness import ITEMS
from tritium_benchmarks.inputs import Request, common_modalities, make_requests
from tritium_benchmarks.manifest import make_manifest
from tritium_benchmarks.perf_analyzer.install import find_perf_analyzer
from tritium_benchmarks.workload import Closed, Workload
from tritium_builders.bundle import Bundle
from tritium_builders.graphs import write_graphs
from tritium_builders.release import (
    Precision,
    Release,
    list_apps,
    live_release,
    load_release,
    release_folder,
)
from tritium_client import Client
from tritium_client.contract import MODALITIES


@dataclass(frozen=True)
class Asked:
    """What a user asks for."""

    app: str
    workload: Workload
    baselines: Sequence[Contender] = ()
    repository: Path = Path("model_repository")
    bundle: Path | None = None
    """None for bundles/APP."""
    url: str | None = None
    """Of a server that runs; None to start one."""
    seconds: float = 5.0
    repeats: int = 4
    limit: bool = False
    perf_analyzer: bool = True
    held_out: int = ITEMS


@dataclass(frozen=True)
class Plan:
    """What a run measures: everything is there, and fits together."""

    asked: Asked
    subject: Subject
    bundle: Bundle
    requests: Sequence[Request]
    manifest: dict[str, Any]
    release: Release | None
    """Tritium's live release; None where it is not known, on a server elsewhere."""
    scratch: Path
    """A folder that is there as long as the plan."""

    @property
    def contenders(self) -> tuple[Contender, ...]:
        """Who is measured, Tritium first."""
        return (CONTENDERS[TRITIUM], *self.asked.baselines)

    @property
    def asks_with_perf_analyzer(self) -> bool:
        """It asks one entry point at a time, in a closed loop."""
        closed = isinstance(self.asked.workload.arrivals, Closed)
        one = common_modalities(self.requests) is not None
        return self.asked.perf_analyzer and closed and one


@contextmanager
def planned(asked: Asked) -> Iterator[Plan]:
    """Make a plan; the graphs that the baselines serve are there until the block ends.

    Raises:
        BenchmarkError: the app is not there, or what was asked for does not go together.
        BundleError: the bundle cannot be used.
        ServerUnavailable, AppNotFound: the server of `url` is not there, or does not serve the app.
    """
    release = None
    if asked.url is None:
        release = live_release_of(asked.repository, asked.app)
    else:
        with Client(asked.url, app=asked.app) as client:
            client.labels()
    bundle = Bundle.load(asked.bundle or Path("bundles") / asked.app)
    requests = make_requests(asked.workload, _count(asked.workload))
    _require_fitting(asked, requests)
    require_same_precision(asked, release)
    repository = None if asked.url is not None else asked.repository
    with tempfile.TemporaryDirectory(prefix="tritium-bench-") as folder:
        if asked.baselines or asked.limit:
            write_graphs(bundle, Path(folder))
        plan = Plan(
            asked=asked,
            subject=Subject(
                asked.app,
                asked.repository,
                bundle.folder,
                Path(folder),
                bf16=_on_a_cpu(release, "bf16"),
            ),
            bundle=bundle,
            requests=requests,
            manifest=make_manifest(repository, asked.app),
            release=release,
            scratch=Path(folder),
        )
        if plan.asks_with_perf_analyzer:
            find_perf_analyzer()  # whoever lacks it is told before minutes pass
        yield plan


def _on_a_cpu(release: Release | None, precision: Precision) -> bool:
    """Whether a release is OpenVINO's in this precision."""
    return release is not None and (release.target, release.precision) == ("openvino", precision)


def require_same_precision(asked: Asked, release: Release | None) -> None:
    """Refuse to compare int8 with what would be fp32 in the name of the same work.

    Raises:
        BenchmarkError: the limit or the twin is asked for.
    """
    if _on_a_cpu(release, "int8") and (asked.limit or CONTENDERS[TWIN] in asked.baselines):
        raise BenchmarkError(
            f"the release is in int8, which neither the limit nor {TWIN} computes in; leave both "
            "out, or measure a release in bf16 or fp32"
        )


def _require_fitting(asked: Asked, requests: Sequence[Request]) -> None:
    given = common_modalities(requests)
    if asked.baselines and given != MODALITIES:
        raise BenchmarkError(
            f"workload {asked.workload.name} leaves texts or pictures out, and the baselines "
            "answer only pairs; take another workload, or leave --against out"
        )
    if asked.limit and given is None:
        raise BenchmarkError(
            f"workload {asked.workload.name} mixes requests of several kinds, and the limit's "
            "batches are of one; take another workload, or leave --limit out"
        )


def _count(workload: Workload) -> int:
    """Requests that are made: repeats need a long stream, others go through theirs again."""
    return workload.mix.distinct * (10 if workload.mix.repeats else 1)


def live_release_of(repository: Path, app: str) -> Release:
    """The live release of an app.

    Raises:
        BenchmarkError: there is none; names those that there are.
    """
    if not repository.is_dir():
        raise BenchmarkError(f"repository {repository} does not exist; run `tritium build` first")
    apps = [name for name in list_apps(repository) if live_release(repository, name) is not None]
    if app not in apps:
        known = f"it has: {', '.join(apps)}" if apps else "it has none; run `tritium build` first"
        raise BenchmarkError(f"app {app} has no live release in {repository}; {known}")
    return load_release(release_folder(repository, app, live_release(repository, app) or 0))
