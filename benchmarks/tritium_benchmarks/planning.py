"""From what a user asks for to a plan that can be run; what can be wrong is told here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tritium_benchmarks.contenders import CONTENDERS, TRITIUM, Contender, Subject
from tritium_benchmarks.errors import BenchmarkError
from tritium_benchmarks.fairness import ITEMS
from tritium_benchmarks.inputs import make_requests
from tritium_benchmarks.manifest import make_manifest
from tritium_benchmarks.perf_analyzer.install import find_perf_analyzer
from tritium_benchmarks.session import Plan, asks_with_perf_analyzer
from tritium_benchmarks.workload import Workload
from tritium_builders.bundle import Bundle
from tritium_builders.graphs import write_graphs
from tritium_builders.release import (
    Release,
    list_apps,
    live_release,
    load_release,
    release_folder,
)
from tritium_client import Client


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
    mix = asked.workload.mix
    if asked.baselines and mix.text_only + mix.image_only > 0:
        raise BenchmarkError(
            f"workload {asked.workload.name} leaves texts or pictures out, and the baselines "
            "answer only pairs; take another workload, or leave --against out"
        )
    bundle = Bundle.load(asked.bundle or Path("bundles") / asked.app)
    requests = make_requests(asked.workload, _count(asked.workload))
    repository = None if asked.url is not None else asked.repository
    with tempfile.TemporaryDirectory(prefix="tritium-graphs-") as folder:
        if asked.baselines or asked.limit:
            write_graphs(bundle, Path(folder))
        plan = Plan(
            subject=Subject(asked.app, asked.repository, bundle.folder, Path(folder)),
            bundle=bundle,
            workload=asked.workload,
            requests=requests,
            contenders=(CONTENDERS[TRITIUM], *asked.baselines),
            seconds=asked.seconds,
            repeats=asked.repeats,
            manifest=make_manifest(repository, asked.app),
            release=release,
            url=asked.url,
            limit=asked.limit,
            perf_analyzer=asked.perf_analyzer,
            held_out=asked.held_out,
        )
        if asks_with_perf_analyzer(plan):
            find_perf_analyzer()  # whoever lacks it is told before minutes pass
        yield plan


def _count(workload: Workload) -> int:
    """Requests that are made: repeats need a long stream, others go through theirs again."""
    return workload.mix.distinct * (10 if workload.mix.repeats else 1)


def live_release_of(repository: Path, app: str) -> Release:
    """The live release of an app.

    Raises:
        BenchmarkError: there is none; names those that there are.
    """
    if not repository.is_dir():
        raise BenchmarkError(
            f"repository {repository} does not exist; run `tritium build` first, or give --url"
        )
    apps = [name for name in list_apps(repository) if live_release(repository, name) is not None]
    if app not in apps:
        known = f"it has: {', '.join(apps)}" if apps else "it has none; run `tritium build` first"
        raise BenchmarkError(f"app {app} has no live release in {repository}; {known}")
    return load_release(release_folder(repository, app, live_release(repository, app) or 0))
