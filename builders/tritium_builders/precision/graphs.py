"""Cast all of an app's graphs, and run graphs of any precision as servables."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from tritium_builders.bundle_schema import BundleManifest
from tritium_builders.configs import ComponentGraph, component_graphs, engine_spec
from tritium_builders.errors import AccuracyError, CastError, CompileError, Mismatch, ParityError
from tritium_builders.precision.cast import describe_fp32
from tritium_builders.precision.reference import ReferenceRuntime
from tritium_builders.precision.worker import TOLD, CastAnswer, CastFailure, CastJob, CastRequest
from tritium_builders.processes import ask_process
from tritium_builders.release import ComponentCast, Precision, Tolerance
from tritium_builders.servables.engine import Engine, Runtime, Tensors
from tritium_builders.stages import Servable, StageTensors
from tritium_builders.tolerances import TOLERANCES
from tritium_client.contract import Role

T = TypeVar("T")

SHARES = (0.5, 0.25, 0.1)
"""Of the parity gate's tolerance: what one component may use up on fp32's inputs, so that a chain
of them stays within it. The next one is tried when the chain does not."""
TIMEOUT_S = 7200.0
"""For all components of an app; int8 takes minutes for a BERT of 6 layers."""


def cast_graphs(
    manifest: BundleManifest,
    graphs: Mapping[Role, Path],
    calibration: Mapping[Role, StageTensors],
    precision: Precision,
    folder: Path,
    progress: Callable[[str], None] = lambda _: None,
    *,
    share: float = SHARES[0],
    rest: Precision = "fp16",
) -> tuple[dict[Role, Path], dict[Role, ComponentCast]]:
    """Write every graph in another precision.

    Args:
        manifest: The bundle's.
        graphs: The fp32 graphs from `write_graphs`.
        calibration: What every stage took for the calibration samples, from `run_stages`.
        precision: What to cast to; fp32 leaves the graphs as they are.
        folder: Where the cast graphs go; must not be the fp32 graphs' folder.
        progress: Told the role of each component before it is cast.
        share: Of the parity gate's tolerance, what each component may use up.
        rest: For int8: what is computed in where nothing is quantised, fp16 or fp32.

    Raises:
        CastError: when no cast of a component answers closely enough; with the figures.
        CompileError: when a tool refuses a graph.
    """
    if precision == "fp32":
        return dict(graphs), {role: describe_fp32(graph) for role, graph in graphs.items()}
    folder.mkdir(parents=True)
    described = component_graphs(manifest)
    tolerance = TOLERANCES[precision]
    with tempfile.TemporaryDirectory(prefix="tritium-calibration-") as scratch:
        jobs = []
        for role, graph in graphs.items():
            samples = Path(scratch) / role
            save_samples(samples, described[role], calibration[role].inputs)
            cosine, relative = _bound(role, tolerance, share)
            jobs.append(
                CastJob(
                    role=role,
                    graph=graph.absolute(),
                    out=(folder / graph.name).absolute(),
                    samples=samples,
                    cosine=cosine,
                    relative=relative,
                )
            )
        request = CastRequest(precision=precision, rest=rest, jobs=jobs)
        answer, _ = ask_process(
            "tritium_builders.precision.worker",
            request,
            CastAnswer,
            what=f"the cast to {precision}",
            extra="precision",
            timeout_s=TIMEOUT_S,
            when_slow="use fewer calibration samples",
            on_line=lambda line: _tell(line, progress),
        )
    if answer.error is not None:
        raise CompileError(answer.error)
    if answer.failure is not None:
        raise _too_far(answer.failure, request)
    return {job.role: job.out for job in jobs}, dict(answer.casts)


def _tell(line: str, progress: Callable[[str], None]) -> None:
    if line.startswith(TOLD):
        progress(line.removeprefix(TOLD).strip())


def save_samples(folder: Path, graph: ComponentGraph, requests: Sequence[Tensors]) -> None:
    """Write a component's inputs, one .npz for each sample."""
    folder.mkdir(parents=True)
    for index, request in enumerate(requests):
        tensors = {tensor.name: request[tensor.name] for tensor in graph.inputs}
        np.savez(folder / f"{index:05}.npz", **tensors)


def _bound(role: Role, tolerance: Tolerance, share: float) -> tuple[float, float]:
    if role.startswith("fusion_head"):
        # Probabilities: the largest of a vector is at least 1 / labels, and often near 1.
        return 0.0, tolerance.probabilities * share
    return 1 - (1 - tolerance.features_cosine) * share, tolerance.features_relative * share


def _too_far(failure: CastFailure, request: CastRequest) -> CastError:
    job = next(job for job in request.jobs if job.role == failure.role)
    cosine, relative = failure.cosine, failure.relative
    by_cosine = not cosine >= job.cosine
    return CastError(
        Mismatch(
            stage=failure.role,
            output=f"{request.precision} against fp32" + (" (1 - cosine)" if by_cosine else ""),
            sample="calibration",
            expected_shape=(),
            actual_shape=(),
            largest_difference=1 - cosine if by_cosine else relative,
            tolerance=1 - job.cosine if by_cosine else job.relative,
            detail=f"cosine {cosine:.6g}, relative difference {relative:.4g}",
        ),
        hint="no cast keeps enough of this component; use another precision",
    )


def graph_servables(
    manifest: BundleManifest,
    graphs: Mapping[Role, Path],
    runtime: Callable[[Role, Path], Runtime] = lambda _, graph: ReferenceRuntime(graph),
) -> dict[Role, Callable[[], Servable]]:
    """Make servables that run graphs, batched as Triton batches requests of equal shapes.

    Args:
        manifest: The bundle's.
        graphs: Role -> what the runtime opens.
        runtime: Opens it; by default ONNX Runtime on the CPU, the numeric reference.
    """
    described = component_graphs(manifest)

    def load(role: Role, graph: Path) -> Servable:
        spec = {**engine_spec(described[role], "onnxruntime", graph.name), "call_tokens": 0}
        return Engine(graph.parent, spec, runtime(role, graph))

    return {role: partial(load, role, graph) for role, graph in graphs.items()}


def first_that_passes(attempt: Callable[[float], T], shares: Sequence[float]) -> T:
    """Cast with more and more islands until the whole chain passes its gates.

    Args:
        attempt: Casts with a share, see `cast_graphs`, and holds the gates.
        shares: In the order that they are tried.

    Raises:
        ParityError, AccuracyError: of the first attempt, when no attempt passes: it is nearest to
            what was asked.
    """
    first: ParityError | AccuracyError | None = None
    for share in shares:
        try:
            return attempt(share)
        except CastError as error:  # a smaller share can only be harder to keep
            raise first or error from error
        except (ParityError, AccuracyError) as error:
            first = first or error
    assert first is not None  # noqa: S101 - there is at least one share
    raise first
