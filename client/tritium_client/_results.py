"""What calls answer with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tritium_client._exceptions import TritiumClientError
    from tritium_client.contract import Modality


@dataclass(frozen=True)
class Ranked:
    """One label with its probability."""

    label: str
    probability: float
    """0 to 1."""


@dataclass(frozen=True)
class Classification:
    """The answer to one `classify`."""

    label: str
    """The most probable label."""
    probability: float
    """Its probability, 0 to 1."""
    ranking: tuple[Ranked, ...]
    """The `top_k` most probable labels, most probable first; equal ones in label order."""
    probabilities: npt.NDArray[np.float32] = field(repr=False, compare=False)
    """FP32 [labels], of every label in the release's order; sums to 1; read-only."""
    release: int
    """The release that computed this answer."""
    request_id: str = field(compare=False)
    """The id that the request carried; the server logs it."""
    latency_s: float = field(compare=False)
    """Seconds from the call of `classify` to its return."""


@dataclass(frozen=True)
class ItemResult:
    """What became of one of many items: exactly one of `result` and `error` is there."""

    index: int
    """Of the item, counted from 0."""
    result: Classification | None = None
    error: TritiumClientError | None = None

    def unwrap(self) -> Classification:
        """The result.

        Raises:
            TritiumClientError: what the call ended with.
        """
        if self.error is not None:
            raise self.error
        assert self.result is not None  # noqa: S101 - one of the two is always there
        return self.result


@dataclass(frozen=True)
class AppStatus:
    """What a server says of an app that it serves."""

    app: str
    ready: bool
    """Whether each entry point takes requests (Triton's view: a dead process goes unnoticed)."""
    release: int
    """The release that callers get now."""
    task: str
    labels: tuple[str, ...]
    """In the order of the probabilities."""
    entry_points: tuple[tuple[Modality, ...], ...]
    """The sets of modalities that the app answers."""
    target: str
    """What its components are compiled for, for instance `openvino`."""
    precision: str
    wire_version: str
    """The version of the wire contract that the release speaks, `major.minor`."""


@dataclass(frozen=True)
class ServerStatus:
    """What a server says of itself."""

    endpoint: str
    live: bool
    ready: bool
    """Triton's own readiness; `tritium serve` has one that also knows of dead processes."""
    version: str
    """Triton's version, for instance `2.51.0`."""
