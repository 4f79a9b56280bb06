"""Everything of a TensorRT build that needs no GPU: cast the graphs, and hold both gates.

The graphs that come out are what TensorRT builds, node for node; ONNX Runtime on the CPU has
answered with them what parity and accuracy ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from tritium_builders.bundle import Bundle
from tritium_builders.bundle_schema import head_role
from tritium_builders.components import StagedComponent, stage_readers
from tritium_builders.configs import component_graphs
from tritium_builders.errors import CastError, CompileError, ParityError
from tritium_builders.graphs import write_graphs
from tritium_builders.parity import verify
from tritium_builders.precision.accuracy import compare_answers, require_accuracy
from tritium_builders.precision.graphs import SHARES, cast_graphs, graph_servables
from tritium_builders.precision.reference import ReferenceRuntime
from tritium_builders.release import (
    AccuracyReport,
    ComponentCast,
    ParityReport,
    Precision,
    ProfileShape,
)
from tritium_builders.samples import Sample
from tritium_builders.stages import Servables, StageTensors, run_stages, top_answers
from tritium_builders.tensorrt.options import TensorRTOptions
from tritium_builders.tensorrt.profiles import component_profiles
from tritium_client.contract import ATTENTION_MASK, INPUT_IDS, Role

Progress = Callable[[str, str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """What TensorRT is to build, and what ONNX Runtime measured of it."""

    readers: Mapping[Role, StagedComponent]
    graphs: Mapping[Role, Path]
    """Encoders and heads, in the wanted precision."""
    profiles: Mapping[Role, list[dict[str, ProfileShape]]]
    buckets: tuple[int, ...]
    casts: Mapping[Role, ComponentCast]
    parity: ParityReport
    accuracy: AccuracyReport | None
    """None in fp32."""


def prepare(
    bundle: Bundle,
    precision: Precision,
    options: TensorRTOptions,
    staging: Path,
    progress: Progress = lambda _step, _item: None,
) -> Prepared:
    """Export, cast, and hold the parity and accuracy gates.

    Args:
        bundle: The bundle.
        precision: Of the graphs.
        options: Buckets and batch.
        staging: An empty folder.
        progress: Told what is being done.

    Raises:
        BundleError, ExportError, CompileError, ParityError, AccuracyError: what went wrong.
    """
    manifest = bundle.manifest
    exported = staging / "fp32"
    exported.mkdir()
    graphs = write_graphs(bundle, exported, lambda role: progress("export", role))
    buckets = options.buckets_for(manifest.text.max_length)
    _check_buckets(graphs["text_encoder"], buckets, manifest.text.max_length)
    readers = stage_readers(bundle, staging, buckets=buckets, max_batch=options.max_batch)
    loaders: Servables = {role: component.load for role, component in readers.items()}
    fp32 = {**loaders, **graph_servables(manifest, graphs)}
    cast, casts, parity = _cast(bundle, graphs, fp32, precision, buckets, staging, progress)
    reduced = {**loaders, **graph_servables(manifest, cast)}
    accuracy = None
    if precision != "fp32":
        accuracy = measure_accuracy(bundle, fp32, reduced, progress)
        require_accuracy(accuracy, precision)
    described = component_graphs(manifest)
    profiles = {
        role: component_profiles(described[role], buckets, options.max_batch) for role in cast
    }
    return Prepared(readers, cast, profiles, buckets, casts, parity, accuracy)


def _cast(
    bundle: Bundle,
    graphs: Mapping[Role, Path],
    fp32: Servables,
    precision: Precision,
    buckets: Sequence[int],
    staging: Path,
    progress: Progress,
) -> tuple[dict[Role, Path], dict[Role, ComponentCast], ParityReport]:
    """Cast the graphs with as few islands as let the whole chain pass the parity gate."""
    manifest = bundle.manifest
    calibration: Mapping[Role, StageTensors] = {}
    if precision != "fp32":
        progress("cast", "calibration samples")
        calibration = run_stages(manifest, fp32, bundle.calibration or bundle.golden)

    def attempt(share: float) -> tuple[dict[Role, Path], dict[Role, ComponentCast], ParityReport]:
        cast, casts = cast_graphs(
            manifest,
            graphs,
            calibration,
            precision,
            staging / f"{precision}-{share}",
            partial(progress, "cast"),
            share=share,
        )
        servables = {**fp32, **graph_servables(manifest, cast)}
        told = partial(progress, "verify")
        return cast, casts, verify(bundle, servables, precision, told, buckets=buckets)

    return first_that_passes(attempt, SHARES[:1] if precision == "fp32" else SHARES)


def first_that_passes(attempt: Callable[[float], T], shares: Sequence[float]) -> T:
    """Cast with more and more islands until the whole chain passes parity.

    Raises:
        ParityError: of the first attempt, when no attempt passes: it is nearest to what was asked.
    """
    first: ParityError | None = None
    for share in shares:
        try:
            return attempt(share)
        except CastError as error:  # a smaller share can only be harder to keep
            raise first or error from error
        except ParityError as error:
            first = first or error
    assert first is not None  # noqa: S101 - there is at least one share
    raise first


def _check_buckets(graph: Path, buckets: Sequence[int], max_length: int) -> None:
    """Refuse a text length that the encoder has no positions for, by trying it."""
    longer = [length for length in buckets if length > max_length]
    if not longer:
        return
    runtime = ReferenceRuntime(graph)
    for length in longer:
        row = np.ones((1, length), dtype=np.int64)
        try:
            runtime({INPUT_IDS: row, ATTENTION_MASK: row})
        except Exception as error:  # ONNX Runtime's errors share no base
            fits = [*(bucket for bucket in buckets if bucket < max_length), max_length]
            raise CompileError(
                f"bucket {length} is above the text encoder's positions: it does not run on "
                f"{length} tokens; use --buckets {','.join(map(str, fits))}"
            ) from error


def measure_accuracy(
    bundle: Bundle, fp32: Servables, reduced: Servables, progress: Progress
) -> AccuracyReport:
    """Answer the bundle's validation samples in fp32 and in the reduced precision.

    A bundle without labelled samples is measured by how often the answer stays fp32's, on all the
    samples that it has.
    """
    samples: Sequence[Sample] = bundle.validation
    if not samples:
        samples = (*bundle.golden, *bundle.calibration)
    manifest = bundle.manifest
    head = head_role(manifest.entry_points[0])
    answers = []
    for name, servables in (("fp32", fp32), ("reduced precision", reduced)):
        told = f"{name}, "
        stages = run_stages(
            manifest,
            servables,
            samples,
            keep=(head,),
            progress=lambda item, told=told: progress("accuracy", told + item),  # type: ignore[misc]
        )
        answers.append(top_answers(stages[head], manifest.labels))
    return compare_answers([sample.label for sample in samples], *answers)
