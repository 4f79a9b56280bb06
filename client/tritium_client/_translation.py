"""From gRPC's and Triton's failures to ours; the only place where that happens.

The gRPC status code picks the exception. Where Triton gives one code two meanings, a table of
its messages decides; the table is kept for Triton 2.51 (24.10), and
tests/client/test_client_faults.py provokes each row with that server.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tritium_client import contract
from tritium_client._exceptions import (
    AppNotFound,
    ClientClosed,
    DeadlineExceeded,
    InvalidInput,
    ServerError,
    ServerUnavailable,
    TritiumClientError,
)


@dataclass(frozen=True)
class Failure:
    """A failed remote call, as gRPC reports it."""

    code: str
    """Name of the gRPC status code, for instance `NOT_FOUND`."""
    details: str
    """The message that came with it."""
    endpoint: str
    model: str
    """The Triton model that was asked, or `` for a call to the server itself."""
    timeout_s: float
    """What the caller gave, in seconds."""


def translate(failure: Failure) -> TritiumClientError:
    """Make the exception that a caller sees of a failed remote call."""
    for code, pattern, make in _REFINEMENTS:
        if code == failure.code and pattern.search(failure.details):
            return make(failure)
    return _BY_CODE.get(failure.code, _server_error)(failure)


def _invalid_argument(failure: Failure) -> TritiumClientError:
    refused = contract.parse_error(failure.details)
    if refused is not None:
        return InvalidInput(refused.stage, refused.item, refused.reason)
    reason = re.sub(r"^\[request id: [^\]]*\] ", "", failure.details)
    return InvalidInput("request", 0, reason)


def _not_found(failure: Failure) -> TritiumClientError:
    return AppNotFound(f"{failure.endpoint} does not serve {failure.model!r}: {failure.details}")


def not_loaded(endpoint: str, name: str) -> AppNotFound:
    """The error of an app or a model that a server has and that does not answer now; retryable."""
    error = AppNotFound(
        f"{endpoint} has {name!r} but it is not loaded: the server is draining, "
        "or the app is being loaded or was unloaded"
    )
    error.retryable = True
    return error


def _not_loaded(failure: Failure) -> TritiumClientError:
    return not_loaded(failure.endpoint, failure.model)


def _unavailable(failure: Failure) -> TritiumClientError:
    return ServerUnavailable(f"{failure.endpoint} is unavailable: {failure.details}")


def _restricted(failure: Failure) -> TritiumClientError:
    return ServerError(
        f"{failure.endpoint} answers this only with its admin key; give admin_key_file="
    )


def _unreachable(failure: Failure) -> TritiumClientError:
    cause = failure.details.rpartition(": ")[2].rstrip("]")
    # What a server with TLS answers plain text with, and one that wants certificates those without.
    closed = " Or does it want TLS, or another certificate?" if cause == "Socket closed" else ""
    return ServerUnavailable(
        f"no server can be reached at {failure.endpoint} ({cause}); is `tritium serve` running, "
        f"and is this its gRPC port?{closed}"
    )


def _not_trusted(failure: Failure) -> TritiumClientError:
    cause = failure.details.removesuffix(": OK").rpartition(": ")[2].rstrip(".]")
    return ServerUnavailable(
        f"the certificate of {failure.endpoint} is not accepted ({cause}); does Tls(ca=...) name "
        "its authority, and Tls(server_name=...) a name that it carries?"
    )


def _dead_stub(failure: Failure) -> TritiumClientError:
    error = ServerUnavailable(
        f"a process of {failure.endpoint} died and has to be restarted, which `tritium serve` "
        f"does by itself within seconds: {failure.details}"
    )
    error.stage = contract.role_of(failure.details)
    return error


def _deadline_exceeded(failure: Failure) -> TritiumClientError:
    return DeadlineExceeded(f"no answer from {failure.endpoint} within {failure.timeout_s:g} s")


def _cancelled(failure: Failure) -> TritiumClientError:
    return ClientClosed(f"the call to {failure.endpoint} was cancelled: {failure.details}")


def _server_error(failure: Failure) -> TritiumClientError:
    asked = f" ({failure.model})" if failure.model else ""
    error = ServerError(f"{failure.endpoint}{asked} failed: {failure.code}: {failure.details}")
    error.stage = contract.role_of(failure.details)
    return error


_Make = Callable[[Failure], TritiumClientError]

_BY_CODE: dict[str, _Make] = {
    "INVALID_ARGUMENT": _invalid_argument,
    "NOT_FOUND": _not_found,
    "UNAVAILABLE": _unavailable,
    "DEADLINE_EXCEEDED": _deadline_exceeded,
    "CANCELLED": _cancelled,
}

_REFINEMENTS: tuple[tuple[str, re.Pattern[str], _Make], ...] = (
    ("INTERNAL", re.compile(r"Stub process .*is not healthy"), _dead_stub),
    ("NOT_FOUND", re.compile(r"has no available versions"), _not_loaded),
    ("UNAVAILABLE", re.compile(r"protocol is restricted"), _restricted),
    (
        "UNAVAILABLE",
        re.compile(r"(Ssl|Tls) handshake failed|Custom verification check failed"),
        _not_trusted,
    ),
    (
        "UNAVAILABLE",
        re.compile(r"^(failed to connect|errors resolving|connections to all backends failing)"),
        _unreachable,
    ),
)
