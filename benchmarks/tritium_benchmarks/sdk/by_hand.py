"""What a careful user of tritonclient writes in place of the SDK's `classify`, for one request.

The same work: BYTES tensors, the one output that is needed, a deadline, the labels sorted. What it
leaves out is what the SDK adds: checks of the inputs, a request id, the release that answered,
retries, several servers, errors that say what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient import grpc as triton
from tritonclient.grpc import aio as triton_aio

from tritium_client import contract

Ranking = list[tuple[str, float]]


class ByHand:
    """Asks one app, one request at a time.

    Args:
        url: host:port of the server.
        app: The app.
        labels: Of its release, in the order of the probabilities.
    """

    def __init__(self, url: str, app: str, labels: Sequence[str]) -> None:
        self._client = triton.InferenceServerClient(url)
        self._app = app
        self._labels = labels

    def classify(self, text: str, image: bytes | None, top_k: int, timeout_s: float) -> Ranking:
        """The most probable labels with their probabilities."""
        result = self._client.infer(
            _entry_point(self._app, image),
            _inputs(text, image),
            outputs=[triton.InferRequestedOutput("probabilities")],
            client_timeout=timeout_s,
        )
        return _rank(result.as_numpy("probabilities")[0], self._labels, top_k)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class AsyncByHand:
    """The same with tritonclient's asyncio client."""

    def __init__(self, url: str, app: str, labels: Sequence[str]) -> None:
        self._client = triton_aio.InferenceServerClient(url)
        self._app = app
        self._labels = labels

    async def classify(
        self, text: str, image: bytes | None, top_k: int, timeout_s: float
    ) -> Ranking:
        """The most probable labels with their probabilities."""
        result = await self._client.infer(
            _entry_point(self._app, image),
            _inputs(text, image),
            outputs=[triton.InferRequestedOutput("probabilities")],
            client_timeout=timeout_s,
        )
        return _rank(result.as_numpy("probabilities")[0], self._labels, top_k)

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()


def _entry_point(app: str, image: bytes | None) -> str:
    return contract.entry_point(app, "classify", ("text",) if image is None else ("text", "image"))


def _inputs(text: str, image: bytes | None) -> list[Any]:
    inputs = [_bytes("text", text.encode())]
    if image is not None:
        inputs.append(_bytes("image", image))
    return inputs


def _bytes(name: str, data: bytes) -> Any:
    tensor = triton.InferInput(name, [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[data]], dtype=object))
    return tensor


def _rank(probabilities: npt.NDArray[np.float32], labels: Sequence[str], top_k: int) -> Ranking:
    order = np.argsort(-probabilities)[:top_k]
    return [(labels[index], float(probabilities[index])) for index in order]
