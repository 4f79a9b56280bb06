"""Try settings on one running server: components are loaded again, nothing else restarts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tritium_benchmarks.contenders import CONTENDERS, TRITIUM, Subject, running
from tritium_benchmarks.errors import BenchmarkError
from tritium_benchmarks.perf_analyzer import measure as perf_analyzer
from tritium_benchmarks.tune.search import Score, Trial
from tritium_benchmarks.tune.space import Setting
from tritium_builders.release import Release
from tritium_client import contract
from tritium_client.contract import Role
from tritium_deploy.control import ModelControl
from tritium_deploy.live import read_config
from tritium_deploy.tuning import machine_tuning, tuned_configs

LOAD_TIMEOUT_S = 120.0


def start_of(release: Release, repository: Path, cores: int) -> Setting:
    """How `serve` runs a release where nobody has tuned it.

    Raises:
        BenchmarkError: the release has no component `encoders`.
    """
    if "encoders" not in release.loaded:
        raise BenchmarkError(
            f"{release.app} release {release.number} has no component `encoders` to tune: it is "
            "for TensorRT, which Model Analyzer tunes (docs/benchmarks.md), or an older Tritium "
            "built it, and `tritium build` makes one that has"
        )
    config = read_config(repository, release.loaded["encoders"].model)
    default = machine_tuning(release.app, release.loaded, cores, own_cores=True)
    default.components["encoders"].apply(config, "encoders")
    spec = json.loads(config.parameters["spec"].string_value)
    return Setting(
        instances=config.instance_group[0].count,
        threads=spec["threads"],
        streams=spec["streams"],
        max_batch=spec["max_batch"],
        max_queue_delay_us=config.dynamic_batching.max_queue_delay_microseconds,
        pin=spec["pin"],
    )


@contextmanager
def trials(
    subject: Subject,
    release: Release,
    data: Path,
    *,
    in_flight: Sequence[int],
    seconds: float,
    p99_ms: float | None,
) -> Iterator[Trial]:
    """Serve the app until the block ends, and give what tries a setting on it.

    Args:
        subject: The app.
        release: Its live release.
        data: Of `write_input_data`.
        in_flight: Loads that each setting is measured under.
        seconds: Of each measurement.
        p99_ms: Bound of p99; None for none.
    """
    models: dict[Role, str] = {role: component.model for role, component in release.loaded.items()}
    entry_point = contract.entry_point(subject.app, "classify", contract.MODALITIES)
    with running(CONTENDERS[TRITIUM], subject) as server:
        control = ModelControl(server.url)

        def apply(setting: Setting) -> None:
            configs = tuned_configs(
                setting.tuning(subject.app),
                models,
                lambda model: read_config(subject.repository, model),
            )
            for model, config in configs.items():
                control.load(model, LOAD_TIMEOUT_S, config)

        def measure(setting: Setting, count: int) -> Score:
            found = perf_analyzer.measure(
                entry_point, server.url, data, in_flight=count, seconds=seconds
            )
            within = p99_ms is None or found.p99_ms <= p99_ms
            return Score(setting, count, found.per_second, found.p99_ms, within)

        def trial(setting: Setting) -> Score:
            apply(setting)
            scores = [measure(setting, count) for count in in_flight]
            return max(scores, key=lambda score: score.rank)

        try:
            yield trial
        finally:
            control.close()
