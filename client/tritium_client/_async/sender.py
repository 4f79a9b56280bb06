"""One request after another until one is answered: places, retries, hedges, the deadline."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from tritium_client import _wire
from tritium_client._async import _io
from tritium_client._async.race import Race
from tritium_client._async.transport import AsyncTransport
from tritium_client._call import Call
from tritium_client._exceptions import ClientClosed, DeadlineExceeded, TritiumClientError
from tritium_client._hedging import HedgePolicy, Hedges
from tritium_client._logging import logger
from tritium_client._options import Method
from tritium_client._retries import Retries, RetryPolicy


class AsyncSender:
    """Sends the requests of one client.

    Args:
        transport: What carries them.
        retries: When a failed one is sent again.
        hedging: When a slow one gets a second one beside it; None for never.
        max_in_flight: Requests that may be under way at a time; more wait, within their deadline.

    Raises:
        ValueError: `max_in_flight` is below 1.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        retries: RetryPolicy,
        hedging: HedgePolicy | None,
        max_in_flight: int,
    ) -> None:
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight must be at least 1: {max_in_flight}")
        self._transport = transport
        self._retries = Retries(retries)
        self._hedges = Hedges(hedging)
        self._race: Race[Any] = Race()
        self._max_in_flight = max_in_flight
        self._slots = _io.Slots(max_in_flight)
        self._closed = False

    @property
    def endpoint(self) -> str:
        """host:port of the server; of several, with commas."""
        return self._transport.endpoint

    def begin(self, timeout_s: float) -> Call:
        """Begin a call.

        Raises:
            ClientClosed: nothing can be sent any more.
            ValueError: `timeout_s` could never be right.
        """
        self.require_open()
        self._retries.earn()
        return Call(self.endpoint, timeout_s)

    def require_open(self) -> None:
        """Refuse to begin what could not be sent.

        Raises:
            ClientClosed: nothing can be sent any more.
        """
        if self._closed:
            raise ClientClosed(f"this client of {self.endpoint} is closed; make a new one")

    async def send(
        self, method: Method, request: Any, call: Call, *, model: str = "", again: bool = True
    ) -> Any:
        """Send a request, and send it again as far as deadline, policy and budget allow.

        Args:
            method: Of Triton's gRPC service.
            request: Its request message.
            call: The call that this is a part of.
            model: The Triton model that is asked.
            again: Whether what failed may be sent again.

        Raises:
            TritiumClientError: what the last attempt ended with.
        """
        attempt = 1
        while True:
            await self._take_place(call)
            if method == "ModelInfer":  # not sooner: waiting for the place took its time
                _wire.set_timeout(request, call.left_s)
            try:
                return await self._attempt(method, request, call, model)
            except TritiumClientError as error:
                pause_s = self._retries.pause_s(error, attempt, call.left_s) if again else None
                if pause_s is None:
                    raise
                logger.info("%s is sent again in %.3f s: %s", call.request_id, pause_s, error)
            await _io.sleep(pause_s)
            attempt += 1

    async def send_aside(self, method: Method, request: Any, call: Call, *, model: str) -> Any:
        """Send once what no caller asked for: it takes no place, and is neither hedged nor counted.

        Args:
            method: Of Triton's gRPC service.
            request: Its request message.
            call: One of its own.
            model: The Triton model that is asked.

        Raises:
            TritiumClientError: what came of it.
        """
        if method == "ModelInfer":
            _wire.set_timeout(request, call.left_s)
        return await self._transport.send(method, request, call, model=model)

    async def close(self) -> None:
        """End what is in flight."""
        self._closed = True
        await self._transport.close()
        await self._race.close()

    async def _take_place(self, call: Call) -> None:
        if not await self._slots.take(call.remaining_s()):
            raise DeadlineExceeded(
                f"not sent within {call.timeout_s:g} s: this client has {self._max_in_flight} "
                "requests in flight already (max_in_flight)"
            )

    async def _attempt(self, method: Method, request: Any, call: Call, model: str) -> Any:
        """Send a request that has a place; a slow one may get a second one beside it."""
        delay_s = self._hedges.delay_s(model) if method == "ModelInfer" else None
        if delay_s is None:
            return await self._send_once(method, request, call, model, None)
        send = partial(self._send_once, method, request, call, model)

        async def may_hedge() -> bool:
            if not await self._slots.take_now():
                return False
            if self._retries.spend():
                logger.debug("%s gets a second request after %.3f s", call.request_id, delay_s)
                return True
            self._slots.give()
            return False

        return await self._race.run(send, delay_s, may_hedge)

    async def _send_once(
        self,
        method: Method,
        request: Any,
        call: Call,
        model: str,
        cancellation: _io.Cancellation | None,
    ) -> Any:
        call.count(method)
        began = time.monotonic()
        try:
            answer = await self._transport.send(
                method, request, call, model=model, cancellation=cancellation
            )
            if method == "ModelInfer":
                call.answered_in_s = time.monotonic() - began
                self._hedges.note(model, call.answered_in_s)
            return answer
        finally:
            self._slots.give()
