"""Triton servable: an entry point that splits requests between the live release and a candidate.

For callers without the SDK, which makes the same split without this hop. Not part of a release:
`tritium serve --router` loads it, and writes what it knows into a file that is read again whenever
it changes. Needs numpy only.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MODALITIES = ("text", "image")
PROBABILITIES, RELEASE, LABEL, ROUTE_KEY = "probabilities", "release", "label", "route_key"


@dataclass(frozen=True)
class Target:
    """One release."""

    release: int
    labels: tuple[str, ...]
    models: dict[str, str]
    """Modalities, with commas -> the release's own ensemble."""


@dataclass(frozen=True)
class Split:
    """Who answers which keys."""

    live: Target
    candidate: Target | None
    percent: float
    """Of keys that the candidate answers."""
    salt: str

    def choose(self, key: str) -> Target:
        """The release that answers a key."""
        if self.candidate is not None and bucket(self.salt, key) < self.percent:
            return self.candidate
        return self.live


def bucket(salt: str, key: str) -> float:
    """Where a key lies between 0 and 100, as `rollout_bucket` of the wire contract says it."""
    keyed = hashlib.blake2b(salt.encode(), digest_size=32).digest()
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=keyed).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53 * 100


def read_split(text: str) -> Split:
    """Read the file that the server writes."""
    values = json.loads(text)

    def target(one: dict[str, Any]) -> Target:
        return Target(one["release"], tuple(one["labels"]), one["models"])

    candidate = values["candidate"]
    return Split(
        target(values["live"]),
        None if candidate is None else target(candidate),
        values["percent"],
        values["salt"],
    )


class SplitFile:
    """The newest split.

    Args:
        path: Renamed into place by whoever changes it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at = -1
        self._split: Split | None = None

    def read(self) -> Split:
        """What the file says now; it is opened only when it has changed."""
        changed = self._path.stat().st_mtime_ns
        if self._split is None or changed != self._read_at:
            self._split = read_split(self._path.read_text("utf-8"))
            self._read_at = changed
        return self._split


class TritonPythonModel:
    """Triton's side: asks other models of the same server, within the process.

    Source: triton-inference-server/python_backend, README, "Business Logic Scripting".
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Take the path of the split from the config's parameter."""
        config = json.loads(args["model_config"])
        self._file = SplitFile(Path(config["parameters"]["split"]["string_value"]))

    async def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer one batch of requests side by side, each on its own."""
        split = self._file.read()
        return list(await asyncio.gather(*(self._answer(one, split) for one in requests)))

    async def _answer(self, request: Any, split: Split) -> Any:
        import triton_python_backend_utils as pb

        given = {
            name: tensor
            for name in MODALITIES
            if (tensor := pb.get_input_tensor_by_name(request, name)) is not None
        }
        target = split.choose(_key_of(request))
        response = await _ask(request, given, target)
        if target is not split.live and _is_its_fault(response):
            target = split.live
            response = await _ask(request, given, target)
        if response is None:
            asked = " + ".join(given) or "nothing"
            message = f"tritium.invalid_input stage=router item=0: no entry point takes {asked}"
            error = pb.TritonError(message, pb.TritonError.INVALID_ARG)
            return pb.InferenceResponse(error=error)
        if response.has_error():
            error = response.error()
            return pb.InferenceResponse(error=pb.TritonError(error.message(), error.code()))
        scores = pb.get_output_tensor_by_name(response, PROBABILITIES)
        best = np.asarray(scores.as_numpy()).argmax(axis=-1).reshape(-1)
        labels = np.array([[target.labels[index].encode()] for index in best], dtype=object)
        releases = np.full((len(best), 1), target.release, dtype=np.int64)
        return pb.InferenceResponse(
            [scores, pb.Tensor(RELEASE, releases), pb.Tensor(LABEL, labels)]
        )


def _key_of(request: Any) -> str:
    """What the caller gave as key, else the request's id, else one drawn for it."""
    import triton_python_backend_utils as pb

    tensor = pb.get_input_tensor_by_name(request, ROUTE_KEY)
    if tensor is not None:
        return bytes(tensor.as_numpy().reshape(-1)[0]).decode("utf-8", errors="replace")
    return request.request_id() or secrets.token_hex(8)


async def _ask(request: Any, given: dict[str, Any], target: Target) -> Any:
    """Ask a release; None where it takes no such modalities."""
    import triton_python_backend_utils as pb

    model = target.models.get(",".join(given))
    if model is None:
        return None
    asked = pb.InferenceRequest(
        model_name=model,
        requested_output_names=[PROBABILITIES],
        inputs=list(given.values()),
        request_id=request.request_id(),
        timeout=request.timeout(),
    )
    return await asked.async_exec()


def _is_its_fault(response: Any) -> bool:
    """Whether another release may answer what this one did not: all but a refused input."""
    import triton_python_backend_utils as pb

    if response is None:
        return True
    refused = response.has_error() and response.error().code() == pb.TritonError.INVALID_ARG
    return bool(response.has_error()) and not refused
