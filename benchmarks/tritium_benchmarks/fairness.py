"""Whether all contenders do the same work: the same labels for the same held-out items."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tritium_benchmarks.callers import connected
from tritium_benchmarks.contenders import TRITIUM, TWIN, Running
from tritium_benchmarks.errors import ContenderError
from tritium_benchmarks.inputs import Request
from tritium_benchmarks.records import Fairness
from tritium_builders.bundle import Bundle
from tritium_builders.graphs import load_model
from tritium_builders.samples import Sample
from tritium_client.contract import Modality

ITEMS = 200
IN_FLIGHT = 8
MAX_POINTS = 0.5
"""Percentage points of accuracy that a reduced precision may lose."""


def held_out(bundle: Bundle, items: int = ITEMS) -> tuple[Sample, ...]:
    """The bundle's first labelled validation samples; its golden ones where nobody labelled any."""
    return (bundle.validation or bundle.golden)[:items]


def expected_labels(bundle: Bundle, samples: Sequence[Sample]) -> list[str]:
    """What the bundle's own PyTorch model says of each sample."""
    model = load_model(bundle).eval()
    labels = bundle.manifest.labels
    given: tuple[tuple[Modality, ...]] = (("text", "image"),)
    return [
        labels[int(model.answer(sample.text, sample.image, given).values["text,image"].argmax())]
        for sample in samples
    ]


def check(
    server: Running,
    app: str,
    labels: Sequence[str],
    samples: Sequence[Sample],
    truth: Sequence[str],
) -> Fairness:
    """Ask a contender about every sample.

    Args:
        server: Whom to ask.
        app: The app.
        labels: Its labels, in order.
        samples: The held-out items.
        truth: What PyTorch says of each.

    Raises:
        ContenderError: a request failed, and why.
    """
    try:
        answers = asyncio.run(_ask(server, app, labels, samples))
    except Exception as error:
        raise ContenderError(
            f"{server.contender.title} did not answer a held-out item: {type(error).__name__}: "
            f"{error}"
        ) from error
    differ = sum(answer != right for answer, right in zip(answers, truth, strict=True))
    labelled = [
        answer == sample.label
        for answer, sample in zip(answers, samples, strict=True)
        if sample.label is not None
    ]
    accuracy = sum(labelled) / len(labelled) if labelled else None
    return Fairness(
        contender=server.contender.name, items=len(samples), differ=differ, accuracy=accuracy
    )


async def _ask(
    server: Running, app: str, labels: Sequence[str], samples: Sequence[Sample]
) -> list[str]:
    requests = [Request(sample.text, sample.image) for sample in samples]
    places = asyncio.Semaphore(IN_FLIGHT)
    async with connected(server, app, labels, requests) as caller:

        async def ask(index: int) -> str:
            async with places:
                return await caller(index)

        return await asyncio.gather(*(ask(index) for index in range(len(requests))))


def problems(found: Sequence[Fairness], precision: str) -> list[str]:
    """Why a comparison would not be fair; empty where it is.

    Args:
        found: Of every contender.
        precision: Of Tritium's release, and of its twin. Whoever serves fp32 must answer PyTorch's
            labels; whoever serves less may be hardly less accurate than they are.
    """
    reduced = () if precision == "fp32" else (TRITIUM, TWIN)
    exact = [line for line in found if line.contender not in reduced]
    lines = [
        f"{line.contender} answers {line.differ} of {line.items} held-out items otherwise than "
        "PyTorch"
        for line in exact
        if line.differ
    ]
    best = max((line.accuracy for line in exact if line.accuracy is not None), default=None)
    for line in found:
        if line.contender in reduced and best is not None and line.accuracy is not None:
            points = round((best - line.accuracy) * 100, 6)
            if points > MAX_POINTS:
                lines.append(f"{line.contender} is {points:.1f} points less accurate than fp32")
    return lines
