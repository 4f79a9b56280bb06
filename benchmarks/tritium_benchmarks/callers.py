"""How each contender is asked: the client that its users would use.

async with connected(server, "openmoji", labels, requests) as ask:
    label = await ask(0)

Every caller answers a request with the label that it got, so that what is timed is what an
application waits for. What aiohttp and tritonclient send is made before anything is timed; the SDK
makes its message in each call.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import numpy as np

from tritium_benchmarks.contenders import PYTRITON_MODEL, Running
from tritium_benchmarks.inputs import Request
from tritium_client import contract

TIMEOUT_S = 30.0
"""Of one request; one that takes longer has failed."""

Caller = Callable[[int], Awaitable[str]]
"""Sends the request of a number, and returns the label of its answer; raises whatever its client
raises where it fails. Beyond the last request it begins again."""


def connected(
    server: Running, app: str, labels: Sequence[str], requests: Sequence[Request]
) -> AbstractAsyncContextManager[Caller]:
    """Connect a contender's own client, until the block ends.

    Args:
        server: Whom to ask.
        app: The app.
        labels: Its labels, in order.
        requests: What the numbers count.
    """
    if server.contender.asked_by == "sdk":
        return _sdk(server.url, app, requests)
    if server.contender.asked_by == "pytriton":
        return _pytriton(server.url, labels, requests)
    return _http(server.url, labels, requests)


@asynccontextmanager
async def _sdk(url: str, app: str, requests: Sequence[Request]) -> AsyncIterator[Caller]:
    """Tritium's own SDK, without its retries: a failure is a failure here."""
    from tritium_client import AsyncClient, RetryPolicy

    never = RetryPolicy(attempts=1)
    async with AsyncClient(url, app=app, retries=never, max_in_flight=10_000) as client:

        async def ask(number: int) -> str:
            request = requests[number % len(requests)]
            answer = await client.classify(
                text=request.text, image=request.image, timeout_s=TIMEOUT_S
            )
            return answer.label

        yield ask


@asynccontextmanager
async def _http(
    url: str, labels: Sequence[str], requests: Sequence[Request]
) -> AsyncIterator[Caller]:
    """Aiohttp."""
    import aiohttp

    bodies = [_json_body(request) for request in requests]
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        headers={"Content-Type": "application/json"},
        raise_for_status=True,
    ) as session:

        async def ask(number: int) -> str:
            body = bodies[number % len(bodies)]
            async with session.post(f"http://{url}/predict", data=body) as answer:
                probabilities = (await answer.json())["probabilities"]
            return labels[int(np.argmax(probabilities))]

        yield ask


@asynccontextmanager
async def _pytriton(
    url: str, labels: Sequence[str], requests: Sequence[Request]
) -> AsyncIterator[Caller]:
    """Tritonclient's asyncio client."""
    from tritonclient.grpc.aio import InferenceServerClient

    inputs = [_tensors(request) for request in requests]
    async with InferenceServerClient(url) as client:

        async def ask(number: int) -> str:
            answer = await client.infer(
                PYTRITON_MODEL, inputs[number % len(inputs)], client_timeout=TIMEOUT_S
            )
            return labels[int(np.argmax(answer.as_numpy(contract.PROBABILITIES)))]

        yield ask


def _json_body(request: Request) -> bytes:
    image = base64.b64encode(request.image or b"").decode()
    return json.dumps({"text": request.text, "image": image}).encode()


def _tensors(request: Request) -> list[Any]:
    from tritonclient.grpc import InferInput

    tensors = []
    values = {contract.TEXT: (request.text or "").encode(), contract.IMAGE: request.image or b""}
    for name, value in values.items():
        tensor = InferInput(name, [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[value]], np.object_))
        tensors.append(tensor)
    return tensors
