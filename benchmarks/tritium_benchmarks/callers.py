"""How each contender is asked: the client that its users would use.

Every caller answers a request with the label that it got, so that what is timed is what an
application waits for.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from tritium_benchmarks.contenders import PYTRITON_MODEL, Running
from tritium_benchmarks.inputs import Request
from tritium_client import contract

TIMEOUT_S = 30.0
"""Of one request; one that takes longer has failed."""


class Caller(Protocol):
    """Asks one server; an asynchronous context manager."""

    async def __call__(self, index: int) -> str:
        """Send the request `index` and return the label of its answer.

        Raises:
            Exception: it failed.
        """

    async def __aenter__(self) -> Caller:
        """Connect."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""


def make_caller(
    server: Running, app: str, labels: Sequence[str], requests: Sequence[Request]
) -> Caller:
    """The client for a contender.

    Args:
        server: Whom to ask.
        app: The app.
        labels: Its labels, in order.
        requests: What `index` counts; longer runs go through them again.
    """
    if server.contender.asked_by == "sdk":
        return SdkCaller(server.url, app, requests)
    if server.contender.asked_by == "pytriton":
        return PyTritonCaller(server.url, labels, requests)
    return HttpCaller(server.url, labels, requests)


class _Closing:
    """What all callers do at the end."""

    async def _close(self) -> None:
        raise NotImplementedError

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()


class SdkCaller(_Closing):
    """Tritium's own SDK, without its retries: a failure is a failure here."""

    def __init__(self, url: str, app: str, requests: Sequence[Request]) -> None:
        self._url, self._app, self._requests = url, app, requests

    async def __aenter__(self) -> SdkCaller:
        from tritium_client import AsyncClient, RetryPolicy

        self._client = AsyncClient(
            self._url, app=self._app, retries=RetryPolicy(attempts=1), max_in_flight=10_000
        )
        return self

    async def __call__(self, index: int) -> str:
        """Send the request `index` and return the label of its answer."""
        request = self._requests[index % len(self._requests)]
        answer = await self._client.classify(
            text=request.text, image=request.image, timeout_s=TIMEOUT_S
        )
        return answer.label

    async def _close(self) -> None:
        await self._client.close()


class HttpCaller(_Closing):
    """aiohttp; the JSON bodies are made before anything is timed."""

    def __init__(self, url: str, labels: Sequence[str], requests: Sequence[Request]) -> None:
        self._url = f"http://{url}/predict"
        self._labels = labels
        self._bodies = [_json_body(request) for request in requests]

    async def __aenter__(self) -> HttpCaller:
        import aiohttp

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            headers={"Content-Type": "application/json"},
            raise_for_status=True,
        )
        return self

    async def __call__(self, index: int) -> str:
        """Send the request `index` and return the label of its answer."""
        body = self._bodies[index % len(self._bodies)]
        async with self._session.post(self._url, data=body) as answer:
            probabilities = (await answer.json())["probabilities"]
        return self._labels[int(np.argmax(probabilities))]

    async def _close(self) -> None:
        await self._session.close()


class PyTritonCaller(_Closing):
    """tritonclient's asyncio client; the tensors are made before anything is timed."""

    def __init__(self, url: str, labels: Sequence[str], requests: Sequence[Request]) -> None:
        self._url, self._labels = url, labels
        self._inputs = [_tensors(request) for request in requests]

    async def __aenter__(self) -> PyTritonCaller:
        from tritonclient.grpc.aio import InferenceServerClient

        self._client = InferenceServerClient(self._url)
        return self

    async def __call__(self, index: int) -> str:
        """Send the request `index` and return the label of its answer."""
        answer = await self._client.infer(
            PYTRITON_MODEL, self._inputs[index % len(self._inputs)], client_timeout=TIMEOUT_S
        )
        return self._labels[int(np.argmax(answer.as_numpy(contract.PROBABILITIES)))]

    async def _close(self) -> None:
        await self._client.close()


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
