"""Large inputs through shared memory, to a server on this host; all else as a message."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import service_pb2

from tritium_client._async import _io
from tritium_client._async.transport import AsyncTransport
from tritium_client._call import Call
from tritium_client._exceptions import (
    AppNotFound,
    InvalidInput,
    ServerError,
    ServerUnavailable,
    TritiumClientError,
)
from tritium_client._logging import logger
from tritium_client._options import Method
from tritium_client._shared_memory import (
    PREFIX,
    SMALLEST_BYTES,
    Region,
    RegionPool,
    is_stale,
    remove_stale,
)

CLOSE_TIMEOUT_S = 1.0
_LOST = "Unable to find shared memory region"
"""What Triton 2.51 says after a restart."""


class AsyncSharedMemoryTransport:
    """Puts large inputs into regions that the server reads; the message names them.

    Whether the server is on this host is found out by registering the first region with it. Where
    that fails, everything travels as messages from then on.

    Args:
        inner: What carries the messages.
    """

    def __init__(self, inner: AsyncTransport) -> None:
        self.endpoint = inner.endpoint
        self._inner = inner
        self._pool = RegionPool()
        self._registered: set[str] = set()
        self._leaving: set[str] = set()
        self._tidied = False
        self._shares = True

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
        large = method == "ModelInfer" and any(
            len(content) >= SMALLEST_BYTES for content in request.raw_input_contents
        )
        lent: list[Region] = []
        if large and self._shares:
            request = await self._share(request, call, lent)
        try:
            answer = await self._inner.send(
                method, request, call, model=model, cancellation=cancellation
            )
        except BaseException as error:
            if isinstance(error, AppNotFound) and _LOST in str(error):
                self._registered.clear()
                for region in lent:
                    self._pool.give_back(region)
                raise _restarted(self.endpoint) from error
            for region in lent:  # the server may read it yet, and says so when it does
                self._leaving.add(region.name)
                self._pool.drop(region)
            raise
        for region in lent:
            self._pool.give_back(region)
        return answer

    async def close(self) -> None:
        """Unregister and remove every region, then close what is below."""
        self._leaving |= self._registered.intersection(self._pool.close())
        await self._unregister_leaving()
        await self._inner.close()

    async def _share(self, request: Any, call: Call, lent: list[Region]) -> Any:
        """The same request with its large inputs in regions, which are added to `lent`."""
        shared = service_pb2.ModelInferRequest()
        shared.CopyFrom(request)
        del shared.raw_input_contents[:]
        try:
            await self._unregister_leaving()
            for tensor, content in zip(shared.inputs, request.raw_input_contents, strict=True):
                region = None
                if len(content) >= SMALLEST_BYTES:
                    region = self._pool.lend(len(content))
                if region is None:
                    shared.raw_input_contents.append(content)
                    continue
                lent.append(region)
                region.write(content)
                await self._register(region, call)
                tensor.parameters["shared_memory_region"].string_param = region.name
                tensor.parameters["shared_memory_byte_size"].int64_param = len(content)
        except BaseException as error:
            for region in lent:
                self._pool.drop(region)
            lent.clear()
            if not isinstance(error, InvalidInput | ServerError | ServerUnavailable | OSError):
                raise  # the deadline has passed, or somebody gave up
            # A server that cannot be reached may share memory later; the message will say so.
            self._shares = isinstance(error, ServerUnavailable)
            logger.info("%s shares no memory with this process: %s", self.endpoint, error)
            return request
        return shared

    async def _register(self, region: Region, call: Call) -> None:
        if region.name in self._registered:
            return
        request = service_pb2.SystemSharedMemoryRegisterRequest(
            name=region.name, key=f"/{region.name}", byte_size=region.size
        )
        await self._inner.send("SystemSharedMemoryRegister", request, call)
        self._registered.add(region.name)
        if not self._tidied:  # not sooner: now it is known that both see the same /dev/shm
            self._tidied = True
            await self._tidy(call)

    async def _unregister_leaving(self) -> None:
        """Let the server forget regions that are gone; those that it still reads stay for later."""
        for name in list(self._leaving):
            self._leaving.discard(name)
            request = service_pb2.SystemSharedMemoryUnregisterRequest(name=name)
            call = Call(self.endpoint, CLOSE_TIMEOUT_S)
            try:
                await self._inner.send("SystemSharedMemoryUnregister", request, call)
                self._registered.discard(name)
            except ServerError:
                self._leaving.add(name)
            except TritiumClientError:
                self._registered.discard(name)  # a server that is gone has forgotten it

    async def _tidy(self, call: Call) -> None:
        """Remove what clients left behind that were killed, here and in the server."""
        remove_stale()
        request = service_pb2.SystemSharedMemoryStatusRequest()
        status = await self._inner.send("SystemSharedMemoryStatus", request, call)
        self._leaving |= {
            name for name in status.regions if name.startswith(PREFIX) and is_stale(name)
        }
        await self._unregister_leaving()


def _restarted(endpoint: str) -> TritiumClientError:
    error = ServerError(f"{endpoint} was restarted and has forgotten its shared memory")
    error.retryable = True
    return error
