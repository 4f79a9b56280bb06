"""More than can be answered: what is over is refused at once, and nothing else suffers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest
import tritonclient.grpc as triton

from tests.e2e.conftest import TARGET, Fold
from tests.support.hostile import GOOD_IMAGE, GOOD_TEXT
from tritium_builders.configs import MAX_QUEUE
from tritium_client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    RetryPolicy,
    ServerUnavailable,
)
from tritium_client.contract import Role
from tritium_deploy import Server

pytestmark = pytest.mark.e2e

NEVER_AGAIN = RetryPolicy(attempts=1)
BEYOND = 3 * MAX_QUEUE
"""Requests at once."""


async def ask_at_once(url: str, count: int, timeout_s: float) -> Counter[str]:
    """Send so many requests together, without retries, and count what becomes of them."""
    seen: Counter[str] = Counter()

    async def ask(client: AsyncClient) -> None:
        try:
            await client.classify(text=GOOD_TEXT, image=GOOD_IMAGE, timeout_s=timeout_s)
            seen["answered"] += 1
        except ServerUnavailable as error:
            full = error.retryable and "queue" in str(error)
            seen["refused" if full else str(error)] += 1
        except DeadlineExceeded:
            seen["too late"] += 1

    async with AsyncClient(url, app="openmoji", retries=NEVER_AGAIN, max_in_flight=count) as client:
        await client.labels()
        await asyncio.gather(*(ask(client) for _ in range(count)))
    return seen


def answers_computed(raw: triton.InferenceServerClient, folds: Sequence[Fold]) -> int:
    role: Role = "encoders" if "encoders" in folds[0].release.loaded else "image_encoder"
    model = folds[0].release.loaded[role].model
    return int(raw.get_inference_statistics(model).model_stats[0].inference_count)


def test_what_finds_the_queue_full_is_refused_and_may_come_again(
    server: Server, client: Client
) -> None:
    expected = client.classify(text=GOOD_TEXT, image=GOOD_IMAGE)
    seen = asyncio.run(ask_at_once(server.grpc_url, BEYOND, timeout_s=60))
    assert seen.keys() == {"answered", "refused"}
    assert seen["answered"] >= MAX_QUEUE, "the queue had room for so many"
    assert seen["refused"] > 0
    again = client.classify(text=GOOD_TEXT, image=GOOD_IMAGE, timeout_s=10)
    assert again.label == expected.label
    assert server.ready


@pytest.mark.skipif(TARGET == "tensorrt", reason="a GPU answers all of them in time")
def test_what_nobody_waits_for_any_more_is_not_computed(
    server: Server, client: Client, folds: Sequence[Fold]
) -> None:
    with triton.InferenceServerClient(server.grpc_url) as raw:
        before = answers_computed(raw, folds)
        seen = asyncio.run(ask_at_once(server.grpc_url, MAX_QUEUE, timeout_s=0.7))
        assert seen["too late"] > MAX_QUEUE / 4
        # Whoever asks next does not wait behind the dead.
        client.classify(text=GOOD_TEXT, image=GOOD_IMAGE, timeout_s=10)
        computed = answers_computed(raw, folds) - before
    assert computed < MAX_QUEUE - seen["too late"] / 2
