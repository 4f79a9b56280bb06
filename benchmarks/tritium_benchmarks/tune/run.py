"""From an app to a tuning file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tritium_benchmarks.contenders import Subject
from tritium_benchmarks.errors import BenchmarkError
from tritium_benchmarks.inputs import make_requests
from tritium_benchmarks.manifest import make_manifest
from tritium_benchmarks.perf_analyzer.input_data import write_input_data
from tritium_benchmarks.perf_analyzer.install import find_perf_analyzer
from tritium_benchmarks.planning import live_release_of
from tritium_benchmarks.tune.search import Found, Score, search
from tritium_benchmarks.tune.serving import start_of, trials
from tritium_benchmarks.workload import Workload
from tritium_builders.cores import available_cores
from tritium_client.contract import MODALITIES
from tritium_deploy.tuning import Tuning, write_tuning

OnTrial = Callable[[str, Score], None]


@dataclass(frozen=True)
class TuneOptions:
    """What to tune, and for what."""

    app: str
    workload: Workload
    repository: Path = Path("model_repository")
    bundle: Path | None = None
    p99_ms: float | None = None
    """Bound of p99; None for none."""
    budget_s: float = 300.0
    seconds: float = 3.0
    """Of each measurement."""
    in_flight: tuple[int, ...] = (4, 16, 32)


def tune(options: TuneOptions, path: Path, on_trial: OnTrial = lambda *_: None) -> Found:
    """Search, and write what was found for `tritium serve --tuning`.

    Args:
        options: What to tune.
        path: The tuning file. It holds the release's own setting where nothing better was found.
        on_trial: Told what is being found out, and each score.

    Raises:
        BenchmarkError: the app or its bundle is not there, the workload has no pairs, or the
            budget is too small.
        PerfAnalyzerMissingError: it is not installed.
        TuningError: the file cannot be written.
    """
    release = live_release_of(options.repository, options.app)
    find_perf_analyzer()
    requests = make_requests(options.workload, options.workload.mix.distinct)
    both = [one for one in requests if one.modalities == MODALITIES]
    if not both:
        raise BenchmarkError(
            f"workload {options.workload.name} has no request with both a text and a picture, and "
            "those are what is tuned for; take another one"
        )
    subject = Subject(
        options.app, options.repository, options.bundle or Path("bundles") / options.app, Path()
    )
    cores = available_cores()
    start = start_of(release, options.repository, cores)
    with tempfile.TemporaryDirectory(prefix="tritium-tune-") as folder:
        data = write_input_data(both, Path(folder) / "input.json")
        with trials(
            subject, release, data,
            in_flight=options.in_flight, seconds=options.seconds, p99_ms=options.p99_ms,
        ) as trial:  # fmt: skip
            found = search(
                trial,
                start,
                budget_s=options.budget_s,
                cores=cores,
                on_trial=on_trial,
            )
    write_tuning(_tuning(options, found), path)
    return found


def _tuning(options: TuneOptions, found: Found) -> Tuning:
    chosen = found.chosen
    manifest = make_manifest(options.repository, options.app)
    measured: dict[str, str | int | float] = {
        "setting": str(chosen.setting),
        "per_second": round(chosen.per_second, 1),
        "p99_ms": round(chosen.p99_ms, 1),
        "in_flight": chosen.in_flight,
        "gain": str(found.gain) if found.gain is not None else "none",
        "workload": options.workload.name,
        "processor": manifest["processor"],
        "cores": manifest["cores"],
        "release": manifest["release"]["number"],
        "when": manifest["started"],
    }
    return chosen.setting.tuning(options.app).model_copy(update={"measured": measured})
