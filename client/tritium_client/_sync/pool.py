# Generated from tritium_client/_async by tools/generate_sync.py: change it there.
"""Several servers behind one client: each request goes to one that is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tritium_client._arguments import TransportName
from tritium_client._call import Call
from tritium_client._exceptions import (
    AppNotFound,
    DeadlineExceeded,
    InvalidInput,
    ServerUnavailable,
    TritiumClientError,
)
from tritium_client._health import Rotation
from tritium_client._logging import logger
from tritium_client._options import Method
from tritium_client._rollout import names_a_release
from tritium_client._security import Security
from tritium_client._sync import _io
from tritium_client._sync.transport import GrpcTransport, Transport
from tritium_client._translation import not_loaded


def open_transport(name: TransportName, endpoints: Sequence[str], security: Security) -> Transport:
    """What carries the requests of a client.

    Args:
        name: `shared_memory` hands large inputs to servers on this host through it.
        endpoints: host:port of each server, at least one.
        security: TLS, and what every request carries.

    Raises:
        ValueError: as `GrpcTransport`.
    """
    servers: list[Transport] = [GrpcTransport(endpoint, security) for endpoint in endpoints]
    if name == "shared_memory":
        # Needs Linux; the rest of the client does not.
        from tritium_client._sync.shared_memory import SharedMemoryTransport

        servers = [SharedMemoryTransport(server) for server in servers]
    return servers[0] if len(servers) == 1 else PoolTransport(servers)


class PoolTransport:
    """Several servers, used in turn; one that is not there is left out for a while.

    Args:
        servers: What carries requests to each of them.
    """

    def __init__(self, servers: Sequence[Transport]) -> None:
        self.endpoint = ",".join(server.endpoint for server in servers)
        self._servers = list(servers)
        self._rotation = Rotation(len(self._servers))

    def send(
        self,
        method: Method,
        request: Any,
        call: Call,
        *,
        model: str = "",
        cancellation: _io.Cancellation | None = None,
    ) -> Any:
        """Send one message to the server whose turn it is; see `Transport`.

        A server that has just started has no app yet, and one that ends has none any more. So one
        that does not know what was asked for is no answer while there are others to ask, those
        that are left out for now among them: they may be back. Releases come to servers one after
        the other, so one that lacks a release still answers for others.
        """
        call.remaining_s()  # a call that comes too late says nothing of a server
        without: dict[int, AppNotFound] = {}
        asked: set[int] = set()
        while (index := self._rotation.choose_another(asked)) is not None:
            asked.add(index)
            if without:
                call.count(method)
            try:
                answer = self._send_to(index, method, request, call, model, cancellation)
            except AppNotFound as error:
                without[index] = error
                continue
            except ServerUnavailable:
                if not without:
                    raise  # the sender decides whether another one gets it
                continue
            except BaseException:
                for lacking in without:
                    self._rotation.gave_up(lacking)
                raise
            for lacking, why in without.items():
                if names_a_release(model):
                    self._rotation.gave_up(lacking)
                else:
                    self._log_ejection(lacking, self._rotation.failed(lacking), why)
            return answer
        for lacking, why in without.items():
            self._note_failure(lacking, why, model)
        # One that is draining outweighs those that never had it: the call is worth a retry.
        last, why = max(without.items(), key=lambda one: one[1].retryable)
        call.endpoint = self._servers[last].endpoint
        raise why

    def _send_to(
        self,
        index: int,
        method: Method,
        request: Any,
        call: Call,
        model: str,
        cancellation: _io.Cancellation | None,
    ) -> Any:
        server = self._servers[index]
        call.endpoint = server.endpoint
        try:
            answer = server.send(method, request, call, model=model, cancellation=cancellation)
            if method == "ModelReady" and not answer.ready:
                raise not_loaded(server.endpoint, model)
        except AppNotFound:
            raise  # what that says of the server, the others tell
        except TritiumClientError as error:
            if call.is_shadow:
                self._rotation.gave_up(index)
            else:
                self._note_failure(index, error, model)
            raise
        except BaseException:
            if cancellation is not None and cancellation.overtaken:
                self._note_silence(index, "another server answered sooner")
            else:
                self._rotation.gave_up(index)
            raise
        self._note_answer(index)
        return answer

    def _note_failure(self, index: int, error: TritiumClientError, model: str) -> None:
        if isinstance(error, InvalidInput | AppNotFound) and not error.retryable:
            self._note_answer(index)
            return
        of_one_release = isinstance(error, AppNotFound) or error.stage is not None
        if of_one_release and names_a_release(model):  # what the others do there may well work
            self._rotation.gave_up(index)
        elif error.retryable:  # gone, full, or draining: others may still serve the app
            self._log_ejection(index, self._rotation.failed(index), error)
        elif isinstance(error, DeadlineExceeded):
            self._note_silence(index, error)
        else:
            self._rotation.gave_up(index)

    def _note_silence(self, index: int, why: object) -> None:
        pause_s = self._rotation.timed_out(index)
        if pause_s:
            self._log_ejection(index, pause_s, why)

    def _log_ejection(self, index: int, pause_s: float, why: object) -> None:
        endpoint = self._servers[index].endpoint
        logger.warning("%s is left out for %.2f s: %s", endpoint, pause_s, why)

    def _note_answer(self, index: int) -> None:
        if self._rotation.succeeded(index):
            logger.info("%s answers again", self._servers[index].endpoint)

    def close(self) -> None:
        """Close every channel."""
        for server in self._servers:
            server.close()
