"""How requests reach a server: one gRPC channel."""

from __future__ import annotations

import threading
from typing import Any, Protocol

import grpc
from tritonclient.grpc import service_pb2_grpc

from tritium_client._async import _io
from tritium_client._call import Call
from tritium_client._exceptions import ClientClosed
from tritium_client._options import ADMIN_METHODS, CHANNEL_OPTIONS, Method
from tritium_client._security import Security
from tritium_client._translation import Failure, translate


class AsyncTransport(Protocol):
    """Sends one request and returns its answer; every failure is a TritiumClientError."""

    endpoint: str

    async def send(
        self,
        method: Method,
        request: Any,
        call: Call,
        *,
        model: str = "",
        cancellation: _io.Cancellation | None = None,
    ) -> Any:
        """Send a message of Triton's gRPC service and wait for the answer.

        Args:
            method: The service's method.
            request: Its request message.
            call: The call that this is a part of.
            model: The Triton model that is asked, for the error.
            cancellation: Gives the request up when another one has won.
        """

    async def close(self) -> None:
        """Give up what is in flight and release the connection."""


class AsyncGrpcTransport:
    """A gRPC channel to one server, opened by the first request.

    Args:
        endpoint: host:port.
        security: TLS, and what every request carries.

    Raises:
        ValueError: when `security` would give a secret away, or names files that cannot be read.
    """

    def __init__(self, endpoint: str, security: Security | None = None) -> None:
        security = security or Security()
        security.check(endpoint)
        self.endpoint = endpoint
        self._security = security
        self._credentials = security.credentials()
        self._options = [*CHANNEL_OPTIONS, *security.channel_options]
        self._metadata = security.pairs
        self._closed = False
        self._opening = threading.Lock()
        self._channel: Any = None
        self._stub: Any = None

    async def send(
        self,
        method: Method,
        request: Any,
        call: Call,
        *,
        model: str = "",
        cancellation: _io.Cancellation | None = None,
    ) -> Any:
        """Send one message; see `AsyncTransport`."""
        timeout_s = call.remaining_s()
        stub = self._open()
        metadata = (*self._metadata, *call.headers)
        if method in ADMIN_METHODS:
            metadata += self._security.admin_pairs(self.endpoint)
        try:
            return await _io.unary(
                getattr(stub, method), request, timeout_s, metadata, cancellation
            )
        except grpc.RpcError as error:
            failure = Failure(
                error.code().name, error.details() or "", self.endpoint, model, call.timeout_s
            )
            raise translate(failure) from error
        except _io.CLOSED_CHANNEL as error:
            # What gRPC raises when somebody closed the channel just before.
            if not self._closed:
                raise
            raise ClientClosed("the client was closed during the call") from error
        except _io.Interrupted as error:
            if not self._closed:  # the caller gave up: that is theirs to see
                raise
            raise ClientClosed("the client was closed during the call") from error

    async def close(self) -> None:
        """Close the channel; what is in flight ends with ClientClosed."""
        self._closed = True
        if self._channel is not None:
            await _io.close_channel(self._channel)

    def _open(self) -> Any:
        with self._opening:
            if self._closed:
                raise ClientClosed(f"the client of {self.endpoint} is closed; make a new one")
            if self._stub is None:
                self._channel = _io.open_channel(self.endpoint, self._options, self._credentials)
                self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
            return self._stub
