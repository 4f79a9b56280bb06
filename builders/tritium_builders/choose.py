"""Which CPU runtime, in which precision, answers an app's own samples faster on this machine."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tritium_builders.bundle import Bundle
from tritium_builders.configs import ENCODERS_BATCH, share_cores_out
from tritium_builders.cores import available_cores
from tritium_builders.release import Precision, RuntimeChoice, Target
from tritium_builders.samples import raw_request

Servable = Callable[[Sequence[dict[str, Any]]], Sequence[Any]]

ROUNDS = 5
ROUND_S = 0.3
LEAD = 1.03
"""How much faster another runtime has to be than the first: less is noise on most machines."""


@dataclass(frozen=True)
class Candidate:
    """What could be served."""

    target: Target
    precision: Precision = "fp32"

    def __str__(self) -> str:
        return self.target if self.precision == "fp32" else f"{self.target} {self.precision}"


def choose(
    bundle: Bundle,
    load: Mapping[Candidate, Callable[[int], Servable]],
    progress: Callable[[str], None] = lambda _: None,
) -> RuntimeChoice:
    """Measure the encoders in turns, as one instance of a server would run them.

    Args:
        bundle: Whose golden samples are asked with every modality: in full batches, as a busy
            server's, and alone, as an idle one's.
        load: Candidate -> what loads its encoders with so many threads; the first one wins a tie.
        progress: Told the candidate that is loaded.
    """
    _, threads = share_cores_out(available_cores())
    loaded = {}
    for candidate, load_one in load.items():
        progress(str(candidate))
        loaded[candidate] = load_one(threads)
    requests = [raw_request(sample, bundle.manifest.modalities) for sample in bundle.golden]
    endless = itertools.cycle(requests)
    batches = [
        list(itertools.islice(endless, ENCODERS_BATCH))
        for _ in range(-(-len(requests) // ENCODERS_BATCH))
    ]
    full: dict[Candidate, list[float]] = {candidate: [] for candidate in loaded}
    alone: dict[Candidate, list[float]] = {candidate: [] for candidate in loaded}
    for number in range(ROUNDS + 1):
        for candidate, servable in loaded.items():
            rates = (
                _answers_per_second(servable, batches),
                _answers_per_second(servable, [[request] for request in requests]),
            )
            if number:  # the first turn warms up
                full[candidate].append(rates[0])
                alone[candidate].append(rates[1])
    return decide(
        {candidate: statistics.median(rates) for candidate, rates in full.items()},
        {candidate: 1000 / statistics.median(rates) for candidate, rates in alone.items()},
        threads,
    )


def decide(
    per_second: Mapping[Candidate, float], alone_ms: Mapping[Candidate, float], threads: int
) -> RuntimeChoice:
    """Take the fastest; the first one unless another is faster by more than noise.

    Full batches and requests alone count alike: the geometric mean of both rates.
    """
    score = {one: math.sqrt(rate / alone_ms[one]) for one, rate in per_second.items()}
    first = next(iter(score))
    best = max(score, key=lambda candidate: score[candidate])
    chosen = best if score[best] > LEAD * score[first] else first
    return RuntimeChoice(
        target=chosen.target,
        precision=chosen.precision,
        per_second={str(one): round(rate, 2) for one, rate in per_second.items()},
        alone_ms={str(one): round(spent, 2) for one, spent in alone_ms.items()},
        threads=threads,
    )


def _answers_per_second(servable: Servable, batches: Sequence[Sequence[dict[str, Any]]]) -> float:
    answered, began = 0, time.perf_counter()
    for batch in itertools.cycle(batches):
        answered += len(servable(batch))
        spent = time.perf_counter() - began
        if spent >= ROUND_S:
            return answered / spent
    raise AssertionError("there are samples")
