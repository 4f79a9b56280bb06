"""What every channel is opened with, and what may be sent through it."""

from __future__ import annotations

from typing import Any, Literal

from tritium_client.contract import KEEPALIVE_MS, MAX_IMAGE_BYTES

KEEPALIVE_TIMEOUT_MS = 3_000
CONNECT_TIMEOUT_MS = 3_000

Method = Literal[
    "ModelConfig",
    "ModelInfer",
    "ModelReady",
    "ServerLive",
    "ServerMetadata",
    "ServerReady",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryUnregister",
]
"""Source: triton-inference-server/common, protobuf/grpc_service.proto, GRPCInferenceService."""

ADMIN_METHODS: frozenset[Method] = frozenset(
    {"SystemSharedMemoryRegister", "SystemSharedMemoryStatus", "SystemSharedMemoryUnregister"}
)
"""`tritium serve` answers them to whoever has its admin key."""

CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    # gRPC's own limit for answers is 4 MiB; requests carry pictures of up to 20 MiB.
    ("grpc.max_send_message_length", MAX_IMAGE_BYTES + 1024 * 1024),
    ("grpc.max_receive_message_length", MAX_IMAGE_BYTES + 1024 * 1024),
    # A peer that is gone without a word (a pulled cable, a frozen machine) is noticed after the sum
    # of the two; pings travel only during calls, and only when nothing else does. A server with
    # Triton's default limits puts up with three of them, which is a silence of 24 seconds.
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    # Newer versions of gRPC wait for a ping's own timeout, which is a minute, when that is longer.
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),
    # One attempt to connect; gRPC's own limit is 20 seconds.
    ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),
    # A server that comes back is found again within a second; gRPC would wait up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A name that resolves to several addresses is several servers: all are used, in turn.
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
    # Otherwise every client of a process shares one connection, and one client's failed attempt
    # to connect makes another wait.
    ("grpc.use_local_subchannel_pool", 1),
]
