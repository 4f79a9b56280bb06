"""Where the time goes inside Triton: its own statistics, before and after a load.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md.
A step of an ensemble is a model; what it says is summed over requests, so differences of sums over
differences of counts are means per request. The component `encoders` has several steps in it: it
counts them itself, for the server's own /metrics.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from tritium_benchmarks.errors import BenchmarkError
from tritium_benchmarks.records import StepTime
from tritium_builders.release import Release
from tritium_client import contract

TIMEOUT_S = 10.0
WHOLE = "whole"
"""The entry point, with all its steps."""


@dataclass(frozen=True)
class Sums:
    """What one model has done since it was loaded; nanoseconds."""

    requests: int = 0
    executions: int = 0
    total: int = 0
    queue: int = 0
    input: int = 0
    infer: int = 0
    output: int = 0
    busy: bool = False
    """`infer` counts every execution once, and not for each of its requests."""


ENCODERS = "encoders"
STEP_METRIC = re.compile(
    r'^tritium_step_(requests|executions|seconds)_total\{model="([^"]+)",step="(\w+)"\} (\S+)$',
    re.MULTILINE,
)
"""As the servable `encoders` names and labels them."""


def step_models(release: Release) -> dict[str, str]:
    """The Triton models that a request with a text and a picture goes through.

    Returns:
        Step -> model name; the entry point is called `whole`.
    """
    models: dict[str, str] = {
        role: component.model
        for role, component in release.loaded.items()
        if role not in {"fusion_head_text", "fusion_head_image"}
    }
    return {WHOLE: contract.entry_point(release.app, "classify", contract.MODALITIES), **models}


def read_sums(
    url: str, models: Mapping[str, str], metrics_url: str | None = None
) -> dict[str, Sums]:
    """Ask Triton what its models have done so far.

    Args:
        url: host:port of gRPC.
        models: Step -> model name.
        metrics_url: Where the steps inside `encoders` are counted; None to leave them out.

    Raises:
        BenchmarkError: Triton does not say.
    """
    try:
        with InferenceServerClient(url) as client:
            statistics = client.get_inference_statistics(client_timeout=TIMEOUT_S)
    except InferenceServerException as error:
        raise BenchmarkError(f"{url} does not tell its statistics: {error.message()}") from error
    steps = {model: step for step, model in models.items()}
    found = {step: Sums() for step in models}
    for model in statistics.model_stats:
        if model.name in steps:
            done = model.inference_stats
            found[steps[model.name]] = Sums(
                requests=done.success.count,
                executions=model.execution_count,
                total=done.success.ns,
                queue=done.queue.ns,
                input=done.compute_input.ns,
                infer=done.compute_infer.ns,
                output=done.compute_output.ns,
            )
    if ENCODERS in found and metrics_url is not None:
        found |= _encoders_steps(metrics_url)
    return found


def _encoders_steps(metrics_url: str) -> dict[str, Sums]:
    """The steps inside one server's `encoders`; several apps' are not told apart here."""
    try:
        with urllib.request.urlopen(metrics_url, timeout=TIMEOUT_S) as answer:  # noqa: S310 # nosec B310 # ours
            text = answer.read().decode()
    except OSError as error:
        raise BenchmarkError(f"{metrics_url} does not tell its metrics: {error}") from error
    found: dict[str, dict[str, float]] = {}
    for counter, _, step, value in STEP_METRIC.findall(text):
        found.setdefault(step, {})[counter] = float(value)
    return {
        step: Sums(
            requests=round(counted["requests"]),
            executions=round(counted["executions"]),
            infer=round(counted["seconds"] * 1e9),
            busy=True,
        )
        for step, counted in found.items()
        if counted.keys() == {"requests", "executions", "seconds"}
    }


def between(
    before: Mapping[str, Sums], after: Mapping[str, Sums], in_flight: int
) -> list[StepTime]:
    """Means per request between two readings, a line for each step that answered something."""
    lines = []
    for step, end in after.items():
        start = before.get(step, Sums())
        requests = end.requests - start.requests
        if requests <= 0:
            continue

        # Every request of a batch waits for all of it.
        times = end.executions - start.executions if end.busy else requests

        def mean(field: str, start: Sums = start, end: Sums = end, count: int = times) -> float:
            total: int = getattr(end, field) - getattr(start, field)
            return round(total / count / 1e6, 4)

        whole = step == WHOLE
        lines.append(
            StepTime(
                in_flight=in_flight,
                step=step,
                requests=requests,
                executions=end.executions - start.executions,
                # An ensemble queues nothing itself; what it says of computing is its steps' work.
                queue_ms=0 if whole else mean("queue"),
                input_ms=0 if whole else mean("input"),
                infer_ms=mean("total") if whole else mean("infer"),
                output_ms=0 if whole else mean("output"),
            )
        )
    return lines
