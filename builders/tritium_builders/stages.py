"""Run an app's stages in process: samples in, what every stage took and gave out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tritium_builders.bundle_schema import BundleManifest
from tritium_builders.configs import ComponentGraph, component_graphs
from tritium_builders.errors import CompileError
from tritium_builders.samples import Sample
from tritium_builders.servables.engine import Tensors
from tritium_client import contract
from tritium_client.contract import Role

Servable = Callable[[Sequence[Tensors]], list[Tensors | Exception]]
"""Requests, each one item with its batch axis, to answers; what the servables are."""
Servables = Mapping[Role, Callable[[], Servable]]
"""Role -> how its servable is loaded; loading an engine costs memory, so it is done late."""

CHUNK = 32
"""Samples that are in memory as pixels at the same time."""


@dataclass
class StageTensors:
    """What one stage took and gave, sample by sample."""

    inputs: list[Tensors] = field(default_factory=list)
    outputs: list[Tensors] = field(default_factory=list)
    offsets: list[list[tuple[int, int]]] = field(default_factory=list)
    """Where each sample's words are; of a text that is tagged."""


def run_stages(
    manifest: BundleManifest,
    servables: Servables,
    samples: Sequence[Sample],
    *,
    keep: Sequence[Role] = contract.ROLES,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[Role, StageTensors]:
    """Answer samples in process, through every entry point.

    Args:
        manifest: The bundle's.
        servables: Of every component.
        samples: What to answer.
        keep: Stages whose tensors are wanted.
        progress: Told how far it is.

    Raises:
        CompileError: when a stage refuses a sample; the bundle's own samples are answerable.
    """
    graphs = component_graphs(manifest)
    # Every stage feeds a later one but for the heads: those that nobody asked for may rest.
    needed = [role for role in graphs if role in keep or not role.startswith("fusion_head")]
    loaded = {role: servables[role]() for role in needed}
    found = {role: StageTensors() for role in keep if role in loaded}
    for start in range(0, len(samples), CHUNK):
        progress(f"sample {start + 1} of {len(samples)}")
        chunk = samples[start : start + CHUNK]
        known: list[Tensors] = [
            {
                contract.TEXT: np.array([[sample.text.encode()]], dtype=object),
                contract.IMAGE: np.array([[sample.image]], dtype=object),
            }
            for sample in chunk
        ]
        for role, servable in loaded.items():
            answers = [
                _require(role, sample, answer)
                for sample, answer in zip(chunk, servable(known), strict=True)
            ]
            if role in found:
                found[role].inputs += [_take(tensors, graphs[role]) for tensors in known]
                found[role].outputs += answers
                found[role].offsets += map(_offsets, known)
            if not role.startswith("fusion_head"):
                for tensors, answer in zip(known, answers, strict=True):
                    tensors.update(answer)
    return found


def _take(tensors: Tensors, graph: ComponentGraph) -> Tensors:
    return {tensor.name: tensors[tensor.name] for tensor in graph.inputs}


def _offsets(known: Tensors) -> list[tuple[int, int]]:
    if contract.OFFSETS not in known:
        return []
    return [(begin, end) for begin, end in known[contract.OFFSETS][0].tolist()]


def _require(role: Role, sample: Sample, answer: Tensors | Exception) -> Tensors:
    if isinstance(answer, Exception):
        raise CompileError(f"{role}: sample {sample.id} is refused: {answer}") from answer
    return answer
