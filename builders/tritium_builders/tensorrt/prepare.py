"""Everything of a TensorRT build that needs no GPU: cast the graphs, and hold both gates.

The graphs that come out are what TensorRT builds, node for node; ONNX Runtime on the CPU has
answered with them what parity and accuracy ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tritium_builders.bundle import Bundle
from tritium_builders.components import StagedComponent, stage_readers
from tritium_builders.configs import component_graphs
from tritium_builders.errors import CompileError
from tritium_builders.graphs import write_graphs
from tritium_builders.parity import verify
from tritium_builders.precision.accuracy import AccuracyGate
from tritium_builders.precision.graphs import (
    SHARES,
    cast_graphs,
    first_that_passes,
    graph_servables,
)
from tritium_builders.precision.reference import ReferenceRuntime
from tritium_builders.release import (
    AccuracyReport,
    ComponentCast,
    ParityReport,
    Precision,
    ProfileShape,
)
from tritium_builders.stages import Servables, StageTensors, run_stages
from tritium_builders.tensorrt.options import TensorRTOptions
from tritium_builders.tensorrt.profiles import component_profiles
from tritium_client.contract import ATTENTION_MASK, INPUT_IDS, Role

Progress = Callable[[str, str], None]


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
        accuracy = AccuracyGate(bundle, fp32, progress).require(reduced, precision)
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
