"""How requests reach a server: one gRPC channel."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import grpc
from tritonclient.grpc import service_pb2_grpc

from tritium_client._call import Call
from tritium_client._exceptions import ClientClosed
from tritium_client._translation import Failure, translate
from tritium_client.contract import MAX_IMAGE_BYTES

Method = Literal[
    "ModelConfig",
    "ModelInfer",
    "ModelReady",
    "RepositoryIndex",
    "ServerLive",
    "ServerMetadata",
    "ServerReady",
]
"""Source: triton-inference-server/common, protobuf/grpc_service.proto, GRPCInferenceService."""

_OPTIONS = [
    # gRPC's own limit for answers is 4 MiB; requests carry pictures of up to 20 MiB.
    ("grpc.max_send_message_length", MAX_IMAGE_BYTES + 1024 * 1024),
    ("grpc.max_receive_message_length", MAX_IMAGE_BYTES + 1024 * 1024),
    # A server that comes back is found again within a second; gRPC would wait up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Otherwise every client of a process shares one connection, and one client's failed attempt
    # to connect makes another wait.
    ("grpc.use_local_subchannel_pool", 1),
]


class Transport(Protocol):
    """Sends one request and returns its answer; every failure is a TritiumClientError."""

    endpoint: str

    def send(self, method: Method, request: Any, call: Call, *, model: str = "") -> Any:
        """Send a message of Triton's gRPC service and wait for the answer.

        Args:
            method: The service's method.
            request: Its request message.
            call: The call that this is a part of.
            model: The Triton model that is asked, for the error.
        """

    def close(self) -> None:
        """Give up what is in flight and release the connection."""


class GrpcTransport:
    """A plain-text gRPC channel to one server; safe to use from several threads."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._closed = False
        self._channel = grpc.insecure_channel(endpoint, options=_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def send(self, method: Method, request: Any, call: Call, *, model: str = "") -> Any:
        """Send one message; see `Transport`."""
        timeout_s = call.remaining_s()
        try:
            return getattr(self._stub, method)(request, timeout=timeout_s)
        except grpc.RpcError as error:
            failure = Failure(
                error.code().name, error.details() or "", self.endpoint, model, call.timeout_s
            )
            raise translate(failure) from error
        except ValueError as error:
            # What gRPC raises when another thread closed the channel just before.
            if not self._closed:
                raise
            raise ClientClosed("the client was closed during the call") from error

    def close(self) -> None:
        """Close the channel; what is in flight ends with ClientClosed."""
        self._closed = True
        self._channel.close()
