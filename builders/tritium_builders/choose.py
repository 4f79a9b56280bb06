"""Which CPU runtime answers an app's own samples faster on this machine."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tritium_builders.bundle import Bundle
from tritium_builders.configs import ENCODERS_BATCH, share_cores_out
from tritium_builders.release import RuntimeChoice, Target
from tritium_builders.samples import raw_request

Servable = Callable[[Sequence[dict[str, Any]]], Sequence[Any]]

ROUNDS = 7
ROUND_S = 0.4
LEAD = 1.03
"""How much faster another runtime has to be than the first: less is noise on most machines."""


def choose(
    bundle: Bundle,
    load: Mapping[Target, Callable[[int], Servable]],
    progress: Callable[[str], None] = lambda _: None,
) -> RuntimeChoice:
    """Measure the encoders in turns, as one instance of a server would run them.

    Args:
        bundle: Whose golden samples are asked, with every modality, in full batches.
        load: Target -> what loads its encoders with so many threads; the first one wins a tie.
        progress: Told the target that is loaded.
    """
    _, threads = share_cores_out(len(os.sched_getaffinity(0)))
    loaded = {}
    for target, load_one in load.items():
        progress(target)
        loaded[target] = load_one(threads)
    samples = itertools.cycle(bundle.golden)
    given = bundle.manifest.modalities
    batches = [
        [raw_request(sample, given) for sample in itertools.islice(samples, ENCODERS_BATCH)]
        for _ in range(-(-len(bundle.golden) // ENCODERS_BATCH))
    ]
    rates: dict[Target, list[float]] = {target: [] for target in loaded}
    for number in range(ROUNDS + 1):
        for target, servable in loaded.items():
            rate = _answers_per_second(servable, batches)
            if number:  # the first turn warms up
                rates[target].append(rate)
    return decide({target: statistics.median(found) for target, found in rates.items()}, threads)


def decide(per_second: Mapping[Target, float], threads: int) -> RuntimeChoice:
    """Take the fastest; the first one unless another is faster by more than noise."""
    first = next(iter(per_second))
    best = max(per_second, key=lambda target: per_second[target])
    chosen = best if per_second[best] > LEAD * per_second[first] else first
    return RuntimeChoice(
        target=chosen,
        per_second={target: round(rate, 2) for target, rate in per_second.items()},
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
