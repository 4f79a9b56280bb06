"""The loopback ports of one server."""

from __future__ import annotations

import contextlib
import errno
import socket
from dataclasses import dataclass

from tritium_deploy.errors import PortTakenError, ServeError


@dataclass(frozen=True)
class Ports:
    """Where one server listens. All four differ."""

    grpc: int = 8001
    """Inference and model control."""
    metrics: int = 8002
    """Triton's Prometheus metrics."""
    ready: int = 8003
    """/live and /ready of `tritium serve`."""
    http: int = 8000
    """Inference over HTTP; nothing listens there unless it is asked for."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be listened on.

        Raises:
            ServeError: naming the port.
        """
        named = {
            "grpc": self.grpc,
            "metrics": self.metrics,
            "ready": self.ready,
            "http": self.http,
        }
        for purpose, port in named.items():
            if not 1 <= port <= 65535:
                raise ServeError(f"{purpose} port {port} is not between 1 and 65535")
        if len(set(named.values())) < len(named):
            words = ", ".join(f"{purpose} {port}" for purpose, port in named.items())
            raise ServeError(f"each port must be another one, not {words}")

    @classmethod
    def free(cls, host: str = "127.0.0.1") -> Ports:
        """Choose four ports that nobody listens on right now.

        Args:
            host: The address that the server will bind.

        Raises:
            ServeError: when the host is not an address of this machine.
        """
        with contextlib.ExitStack() as stack:
            # All four are held at once, so that the system cannot hand out one of them twice.
            sockets = [stack.enter_context(socket.socket()) for _ in range(4)]
            for one in sockets:
                try:
                    one.bind((host, 0))
                except OSError as error:
                    if (wrong := _wrong_host(host, error)) is None:
                        raise
                    raise wrong from error
            grpc, metrics, ready, http = (one.getsockname()[1] for one in sockets)
        return cls(grpc=grpc, metrics=metrics, ready=ready, http=http)


def require_free(purpose: str, host: str, port: int) -> None:
    """Fail early, and by name, when somebody listens on a port.

    Raises:
        PortTakenError: when the port is taken.
        ServeError: when the host is not an address of this machine.
    """
    try:
        with socket.socket() as probe:
            # As gRPC does: a connection in TIME_WAIT does not keep a server from listening.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except PermissionError as error:
        raise ServeError(
            f"{purpose} port {port} needs root; choose one above 1023 with --{purpose}-port"
        ) from error
    except OSError as error:
        raise _wrong_host(host, error) or PortTakenError(purpose, host, port) from error


def _wrong_host(host: str, error: OSError) -> ServeError | None:
    """What to say where it is the host that nothing can listen on; None where it is the port."""
    if isinstance(error, socket.gaierror):
        return ServeError(f"host {host!r} cannot be resolved; use an address like 127.0.0.1")
    if error.errno == errno.EADDRNOTAVAIL:
        return ServeError(
            f"host {host} is not an address of this machine; use 127.0.0.1 or 0.0.0.0"
        )
    return None
