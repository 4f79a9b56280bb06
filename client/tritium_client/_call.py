"""One call: its deadline, its id, and what an error says of it."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field
from types import TracebackType

from tritium_client._exceptions import DeadlineExceeded, TritiumClientError
from tritium_client._options import Method
from tritium_client._results import Timing
from tritium_client._tracing import trace_headers


@dataclass
class Call:
    """Starts when it is made; everything within its `with` block shares its deadline.

    Raises:
        ValueError: when `timeout_s` is not a positive, finite number.
    """

    endpoint: str
    timeout_s: float
    request_id: str = field(default_factory=lambda: os.urandom(16).hex())
    started: float = field(default_factory=time.monotonic)
    attempts: int = 0
    """Requests that were sent for it, retries and hedges included."""
    inferences: int = 0
    """Those among them that asked for the answer itself, and not for a release's labels."""
    answered_in_s: float = 0.0
    """Seconds from sending the request that was answered to its answer."""
    headers: tuple[tuple[str, str], ...] = field(default_factory=trace_headers)
    """GRPC metadata of its requests, besides what every request of the client carries."""
    is_shadow: bool = False
    """Nobody waits for it: what becomes of it says something of a candidate, and of no server."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.timeout_s) and self.timeout_s > 0):
            raise ValueError(f"timeout_s must be a positive number of seconds: {self.timeout_s}")

    def count(self, method: Method) -> None:
        """Note that one more request is sent for it."""
        self.attempts += 1
        self.inferences += method == "ModelInfer"

    @property
    def elapsed_s(self) -> float:
        """Seconds since the call started."""
        return time.monotonic() - self.started

    @property
    def left_s(self) -> float:
        """Seconds until the deadline; not positive when it has passed."""
        return self.timeout_s - self.elapsed_s

    @property
    def timing(self) -> Timing:
        """Where the time of the answered call went."""
        return Timing(self.elapsed_s, self.answered_in_s, self.inferences)

    def remaining_s(self) -> float:
        """Seconds until the deadline, more than 0.

        Raises:
            DeadlineExceeded: when it has passed.
        """
        remaining = self.left_s
        if remaining <= 0:
            raise DeadlineExceeded(f"no answer from {self.endpoint} within {self.timeout_s:g} s")
        return remaining

    def __enter__(self) -> Call:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Note on an error that ends the call which call it was."""
        if isinstance(exception, TritiumClientError):
            exception.endpoint = self.endpoint  # of the last attempt
            exception.request_id = self.request_id
            exception.elapsed_s = self.elapsed_s
            exception.attempts = self.attempts
