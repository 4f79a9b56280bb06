"""Several servers behind one client: each request goes to one that is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tritium_client._async.transport import AsyncGrpcTransport, AsyncTransport
from tritium_client._call import Call
from tritium_client._exceptions import ServerUnavailable, TritiumClientError
from tritium_client._health import Rotation
from tritium_client._options import Method
from tritium_client._security import Security


class AsyncPoolTransport:
    """One channel for each server, used in turn; one that is not there is left out for a while.

    Args:
        endpoints: host:port of each server, at least one.
        security: As for one server.

    Raises:
        ValueError: as `AsyncGrpcTransport`.
    """

    def __init__(self, endpoints: Sequence[str], security: Security | None = None) -> None:
        self.endpoint = ",".join(endpoints)
        self._servers: list[AsyncTransport] = [
            AsyncGrpcTransport(endpoint, security) for endpoint in endpoints
        ]
        self._rotation = Rotation(len(self._servers))

    async def send(self, method: Method, request: Any, call: Call, *, model: str = "") -> Any:
        """Send one message to the server whose turn it is; see `AsyncTransport`."""
        index = self._rotation.choose()
        server = self._servers[index]
        call.endpoint = server.endpoint
        try:
            answer = await server.send(method, request, call, model=model)
        except ServerUnavailable:
            self._rotation.failed(index)
            raise
        except TritiumClientError as error:
            if error.retryable:  # it is draining: others may still serve the app
                self._rotation.failed(index)
            else:
                self._rotation.gave_up(index)
            raise
        except BaseException:
            self._rotation.gave_up(index)
            raise
        self._rotation.succeeded(index)
        return answer

    async def close(self) -> None:
        """Close every channel."""
        for server in self._servers:
            await server.close()
