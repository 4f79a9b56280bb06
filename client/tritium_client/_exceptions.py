"""Every error that a call can end with.

    TritiumClientError
    ├── InvalidInput         what was given is refused, by the client or by a stage of the graph
    ├── AppNotFound          the server does not serve this app
    ├── AppLacksCapability   the app is there, but does not answer such a request
    ├── IncompatibleRelease  the release speaks another major version of the wire contract
    ├── ServerUnavailable    the server, or a part of it, is not there now (retryable)
    ├── DeadlineExceeded     no answer within the time that the caller gave
    ├── ServerError          the server failed in a way that it should not
    └── ClientClosed         the client was closed before or during the call

A call with arguments that could never be right (`top_k=0`, `timeout_s=-1`) raises ValueError.
"""

from __future__ import annotations


class TritiumClientError(Exception):
    """Anything that a call can end with, other than its answer."""

    retryable: bool = False
    """Whether the same request may succeed when it is sent again."""
    endpoint: str | None = None
    """host:port that was called, where the call got that far."""
    request_id: str | None = None
    """The id that the request carried; the server logs it."""
    elapsed_s: float | None = None
    """Seconds from the start of the call to its failure."""
    attempts: int = 0
    """Requests that were sent for the call, retries included; 0 when nothing travelled."""
    stage: str | None = None
    """The stage of the graph that it comes from, for instance `image_decoder`, where one is known;
    of an InvalidInput also `client` or `request`."""
    index: int | None = None
    """Index of the item: within the items of `classify_many` and `embed_many`, else within the
    request."""


class InvalidInput(TritiumClientError):
    """What was given is refused; sending it again is refused again.

    Args:
        stage: Who refused it: `client` (nothing was sent), `request` (Triton, before any stage
            ran), or the stage of the graph, for instance `image_decoder`.
        index: Index of the item within the request; 0 when it carries one item.
        reason: What is wrong with it.
    """

    stage: str
    index: int

    def __init__(self, stage: str, index: int, reason: str) -> None:
        super().__init__(stage, index, reason)
        self.stage = stage
        self.index = index
        self.reason = reason

    def __str__(self) -> str:
        return f"invalid input (stage {self.stage}, item {self.index}): {self.reason}"


class AppNotFound(TritiumClientError):
    """The server does not serve this app; retryable while the app is being unloaded or loaded."""


class AppLacksCapability(TritiumClientError):
    """The app is served, but does not do that, or not with the modalities that were given."""


class IncompatibleRelease(TritiumClientError):
    """The release speaks another major version of the wire contract than this package."""


class ServerUnavailable(TritiumClientError):
    """The server, or a process of it, is not there or has no room at the moment."""

    retryable = True


class DeadlineExceeded(TritiumClientError):
    """No answer came within `timeout_s`; the server may or may not have computed one."""


class ServerError(TritiumClientError):
    """The server failed in a way that it should not; its log says more."""


class ClientClosed(TritiumClientError):
    """The client was closed before or during the call; make a new one."""
