"""A transport without a server, for tests of code that calls apps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritium_client._call import Call
from tritium_client._exceptions import ClientClosed
from tritium_client._mock import MockApp, respond
from tritium_client._options import Method


class AsyncMockTransport:
    """Answers as a server with the given apps would; nothing travels.

    Requests are written and answers are read as with a real server, so that a test sees the same
    results, checks and errors.

    Args:
        apps: App's name -> what it is and how it answers.

    Examples:
        >>> apps = {"pets": MockApp(labels=("cat", "dog"), answer=lambda text, image: [0.9, 0.1])}
        >>> async with AsyncClient(app="pets", transport=AsyncMockTransport(apps)) as client:
        ...     assert (await client.classify(text="miaow")).label == "cat"
    """

    def __init__(self, apps: Mapping[str, MockApp]) -> None:
        self.endpoint = "mock:0"
        self._apps = dict(apps)
        self._closed = False

    async def send(
        self,
        method: Method,
        request: Any,
        call: Call,
        *,
        model: str = "",
        cancellation: Any = None,
    ) -> Any:
        """Answer one message; see `AsyncTransport`."""
        del model, cancellation
        call.remaining_s()
        if self._closed:
            raise ClientClosed("the client was closed during the call")
        return respond(self._apps, method, request, call)

    async def close(self) -> None:
        """Answer nothing any more."""
        self._closed = True
