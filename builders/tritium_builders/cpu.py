"""A release for Triton's Python backend: stage what could be served, hold its gates, take one.

Reduced precisions are OpenVINO's: bf16 rounds the encoders' graphs where the CPU has units for it,
int8 quantises them with the bundle's calibration samples. Heads stay in fp32: they take
half a millisecond.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, cast

from tritium_builders.bundle import Bundle
from tritium_builders.choose import Candidate, choose
from tritium_builders.components import (
    StagedComponent,
    stage_encoders,
    stage_engines,
    stage_readers,
)
from tritium_builders.configs import share_cores_out
from tritium_builders.cores import available_cores
from tritium_builders.errors import (
    AccuracyError,
    CompileError,
    MissingExtraError,
    ParityError,
    needs,
)
from tritium_builders.graphs import write_graphs
from tritium_builders.parity import verify
from tritium_builders.precision.accuracy import AccuracyGate
from tritium_builders.precision.cast import describe_fp32
from tritium_builders.precision.graphs import (
    SHARES,
    cast_graphs,
    first_that_passes,
    graph_servables,
)
from tritium_builders.publish import Made
from tritium_builders.release import (
    AccuracyReport,
    ComponentCast,
    ParityReport,
    Precision,
    Target,
)
from tritium_builders.servables.engine import signal_stack_kept
from tritium_builders.stages import Servables, run_stages
from tritium_client.contract import Role

AUTO: Literal["auto"] = "auto"
TARGETS: tuple[Target, ...] = ("openvino", "onnxruntime")
REDUCED: tuple[Precision, ...] = ("bf16", "int8")
"""What OpenVINO computes besides fp32. fp16 gains nothing on CPUs that convert it to fp32."""
ENCODERS: tuple[Role, ...] = ("text_encoder", "image_encoder")
Progress = Callable[[str, str], None]


@dataclass(frozen=True)
class _Staged:
    """A candidate on disk, with what its gates measured; fp32's parity is measured once taken."""

    components: Mapping[Role, StagedComponent]
    casts: Mapping[Role, ComponentCast] = field(default_factory=dict)
    parity: ParityReport | None = None
    accuracy: AccuracyReport | None = None

    def servables(self) -> Servables:
        servables: dict[Role, Callable[..., Any]] = {
            role: component.load for role, component in self.components.items()
        }
        if "encoders" in servables:  # as `serve` will run it here
            _, threads = share_cores_out(available_cores())
            servables["encoders"] = partial(self.load_encoders, threads)
        return servables

    def load_encoders(self, threads: int) -> Callable[..., Any]:
        return self.components["encoders"].load(threads=threads)


def candidates(target: str, precision: str) -> list[Candidate]:
    """What a build measures, the first one first in doubt.

    Args:
        target: A CPU target, or auto.
        precision: Of the encoders, or auto.

    Raises:
        CompileError: when the target has no such precision; says which have it.
    """
    targets = TARGETS if target == AUTO else (cast(Target, target),)
    if precision == "fp16":
        raise CompileError("fp16 is for --target tensorrt; on a CPU use bf16, int8 or auto")
    if precision in REDUCED:
        if "openvino" not in targets:
            raise CompileError(
                f"{precision} on a CPU is OpenVINO's, and target {target} builds fp32 only; use "
                "--target openvino"
            )
        return [Candidate("openvino", precision)]
    found = [Candidate(one) for one in targets]
    if precision == AUTO and "openvino" in targets:
        found += [Candidate("openvino", reduced) for reduced in REDUCED]
    return found


def make_for_cpu(
    bundle: Bundle, wanted: Sequence[Candidate], staging: Path, progress: Progress
) -> tuple[Candidate, Made]:
    """Make the components of the fastest candidate that passes its gates.

    Args:
        bundle: The bundle.
        wanted: From `candidates`.
        staging: An empty folder on the repository's filesystem.
        progress: Told what is being done.

    Raises:
        BundleError, ExportError, CompileError, ParityError, AccuracyError: what went wrong. With
            several candidates, a reduced precision that fails is only not taken.
    """
    graphs = write_graphs(bundle, staging, lambda role: progress("export", role))
    stager = _Stager(bundle, graphs, staging, progress)
    staged: dict[Candidate, _Staged] = {}
    refused = {}
    for candidate in wanted:
        try:
            staged[candidate] = stager.stage(candidate)
        except (CompileError, ParityError, AccuracyError, MissingExtraError) as error:
            if candidate.precision == "fp32" or len(wanted) == 1:
                raise
            refused[str(candidate)] = (
                error.found if isinstance(error, AccuracyError) else str(error)
            )
    choice, taken = None, wanted[0]
    if len(wanted) > 1:
        loaders = {candidate: one.load_encoders for candidate, one in staged.items()}
        choice = choose(bundle, loaders, partial(progress, "measure"))
        choice = choice.model_copy(update={"refused": refused})
        taken = Candidate(choice.target, choice.precision)
    found = staged[taken]
    parity = found.parity or verify(bundle, found.servables(), "fp32", partial(progress, "verify"))
    return taken, Made(
        found.components, parity, casts=found.casts, accuracy=found.accuracy, choice=choice
    )


@dataclass
class _Stager:
    """Writes candidates of one bundle, each into a folder of its own."""

    bundle: Bundle
    graphs: Mapping[Role, Path]
    """Its ONNX graphs, in fp32."""
    staging: Path
    progress: Progress

    @cached_property
    def fp32(self) -> Servables:
        """What calibration samples go through, and reduced precisions are held against."""
        readers = stage_readers(self.bundle, self._folder("reference"))
        loaders = {role: component.load for role, component in readers.items()}
        return {**loaders, **graph_servables(self.bundle.manifest, self.graphs)}

    @cached_property
    def accuracy(self) -> AccuracyGate:
        return AccuracyGate(self.bundle, self.fp32, self.progress)

    def stage(self, candidate: Candidate) -> _Staged:
        """Write a candidate; one of reduced precision has held its gates then."""
        match candidate.precision:
            case "int8":
                return self._quantised()
            case "bf16":
                require_bf16()
                return self._gated(candidate, self._components(self.graphs, candidate))
            case _:
                return _Staged(self._components(self.graphs, candidate))

    def _gated(self, candidate: Candidate, components: Mapping[Role, StagedComponent]) -> _Staged:
        """Hold both gates of a reduced precision."""
        precision = candidate.precision
        reduced = _Staged(components).servables()
        try:
            parity = verify(self.bundle, reduced, precision, partial(self.progress, "verify"))
            accuracy = self.accuracy.require(reduced, precision)
        except RuntimeError as error:  # OpenVINO's, when it loads what it has no kernel for
            last = str(error).strip().splitlines()[-1]
            raise CompileError(f"OpenVINO cannot run {precision} on this CPU: {last}") from error
        return _Staged(components, parity=parity, accuracy=accuracy)

    def _quantised(self) -> _Staged:
        """Quantise as much of the encoders as lets the whole chain pass its gates."""
        manifest, candidate = self.bundle.manifest, Candidate("openvino", "int8")
        self.progress("cast", "calibration samples")
        samples = self.bundle.calibration or self.bundle.golden
        calibration = run_stages(manifest, self.fp32, samples, keep=ENCODERS)
        encoders = {role: self.graphs[role] for role in ENCODERS}
        heads = {role: graph for role, graph in self.graphs.items() if role not in ENCODERS}
        kept = {role: describe_fp32(graph) for role, graph in heads.items()}

        def attempt(share: float) -> _Staged:
            quantised, casts = cast_graphs(
                manifest,
                encoders,
                calibration,
                "int8",
                self.staging / f"int8-graphs-{share}",
                partial(self.progress, "cast"),
                share=share,
                rest="fp32",
            )
            components = self._components({**quantised, **heads}, candidate, f"-{share}")
            return replace(self._gated(candidate, components), casts={**casts, **kept})

        return first_that_passes(attempt, SHARES)

    def _components(
        self, graphs: Mapping[Role, Path], candidate: Candidate, attempt: str = ""
    ) -> dict[Role, StagedComponent]:
        folder = self._folder(f"{candidate.target}-{candidate.precision}{attempt}")
        told = partial(self.progress, "compile")
        # int8 computes in bf16 what is not quantised, where that is faster than fp32.
        bf16 = candidate.precision == "bf16" or (candidate.precision == "int8" and has_bf16())
        staged = {
            **stage_readers(self.bundle, folder),
            **stage_engines(self.bundle, graphs, candidate.target, folder, told, bf16=bf16),
        }
        staged["encoders"] = stage_encoders(self.bundle, staged, folder)
        return staged

    def _folder(self, name: str) -> Path:
        folder = self.staging / name
        folder.mkdir()
        return folder


def has_bf16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this CPU; elsewhere it takes fp32 without a word."""
    with needs("build"):
        import openvino
    with signal_stack_kept():
        return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def require_bf16() -> None:
    """Refuse a CPU that would compute in fp32.

    Raises:
        CompileError: naming what it needs.
    """
    if not has_bf16():
        raise CompileError(
            "bf16 needs a CPU with bfloat16 units (AVX512-BF16 or AMX), and this one has none; use "
            "fp32, int8 or auto"
        )
