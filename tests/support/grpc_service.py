"""A gRPC server in this process that plays one part of Triton's service: what was asked is seen."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc


@contextmanager
def served(service: Any) -> Iterator[str]:
    """Serve a GRPCInferenceServiceServicer on loopback until the block ends.

    Yields:
        host:port.
    """
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
