# Generated from tritium_client/_async by tools/generate_sync.py: change it there.
"""What lies behind a client: its connection, and what it can ask a server about."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tritium_client._arguments import (
    DEFAULT_URL,
    TransportName,
    check_transport,
    checked_app,
    checked_endpoints,
)
from tritium_client._hedging import HedgePolicy
from tritium_client._results import AppStatus, ServerStatus, ShadowReport
from tritium_client._retries import RetryPolicy
from tritium_client._security import Security, Tls
from tritium_client._sync.catalog import Catalog
from tritium_client._sync.pool import open_transport
from tritium_client._sync.routing import Router
from tritium_client._sync.sender import Sender
from tritium_client._sync.transport import Transport
from tritium_client.contract import Verb

if TYPE_CHECKING:
    from typing_extensions import Self

    from tritium_client._labelling import LabellingQueue

DEFAULT_TIMEOUT_S = 5.0
DEFAULT_MAX_IN_FLIGHT = 128


class Connection:
    """The base of `Client`, which says what its arguments are."""

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        app: str | None = None,
        tls: Tls | None = None,
        token: str | None = None,
        metadata: Mapping[str, str] | None = None,
        admin_key_file: str | os.PathLike[str] | None = None,
        retries: RetryPolicy | None = None,
        hedging: HedgePolicy | None = None,
        max_in_flight: int = DEFAULT_MAX_IN_FLIGHT,
        transport: TransportName | Transport = "auto",
        labelling_queue: LabellingQueue | None = None,
    ) -> None:
        endpoints = checked_endpoints(url)
        self._app = None if app is None else checked_app(app)
        if isinstance(transport, str):
            check_transport(transport)
            security = Security(tls, token, metadata or {}, admin_key_file)
            transport = open_transport(transport, endpoints, security)
        self._sender = Sender(transport, retries or RetryPolicy(), hedging, max_in_flight)
        self._catalog = Catalog(self._sender)
        self._router = Router(self._sender, self._catalog, labelling_queue)

    @property
    def endpoint(self) -> str:
        """host:port of the server; of several, with commas."""
        return self._sender.endpoint

    def labels(
        self, app: str | None = None, *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> tuple[str, ...]:
        """The labels of the release that answers now, in the order of the probabilities.

        Args:
            app: The app, when it is not the client's own.
            timeout_s: Seconds for the whole call.

        Raises:
            AppNotFound: the server does not serve the app.
            TritiumClientError: as `classify`.
        """
        app = self._app_of_call(app)
        with self._sender.begin(timeout_s) as call:
            return (self._catalog.first(app, call)).labels

    def status(self, app: str | None = None, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> AppStatus:
        """What the server says of an app: release, labels, modalities, target.

        Args:
            app: The app, when it is not the client's own.
            timeout_s: Seconds for the whole call.

        Raises:
            AppNotFound: the server does not serve the app.
            TritiumClientError: as `classify`.
        """
        app = self._app_of_call(app)
        with self._sender.begin(timeout_s) as call:
            return self._catalog.status(app, call)

    def server_status(self, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> ServerStatus:
        """What the server says of itself.

        Args:
            timeout_s: Seconds for the whole call.

        Raises:
            TritiumClientError: as `classify`; ServerUnavailable when nobody answers.
        """
        with self._sender.begin(timeout_s) as call:
            return self._catalog.server(call)

    def apps(self, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> tuple[str, ...]:
        """The apps that the server serves, sorted.

        The server's name and its entry points say it. A server that was not started by
        `tritium serve` may not: then the client's own app is the place to begin.

        Args:
            timeout_s: Seconds for the whole call.

        Raises:
            ServerError: the server does not say, and this client has no app of its own.
            TritiumClientError: as `classify`.
        """
        with self._sender.begin(timeout_s) as call:
            return self._catalog.apps(self._app, call)

    def shadow_report(self, app: str | None = None, *, verb: Verb | None = None) -> ShadowReport:
        """How an app's candidate answers beside the live release, as this client has seen so far.

        The share of requests that a rollout says goes to both, in the background: no call waits for
        that, or ends otherwise. Nothing is sent for the report.

        Args:
            app: The app, when it is not the client's own.
            verb: Of an app that has several; None for the one that was asked most.
        """
        return self._router.report(self._app_of_call(app), verb)

    def close(self) -> None:
        """Release the connection; what is in flight ends with ClientClosed. Twice is fine."""
        self._router.close()
        self._sender.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        app = "" if self._app is None else f", app={self._app!r}"
        return f"{type(self).__name__}({self.endpoint!r}{app})"

    def _app_of_call(self, app: str | None) -> str:
        chosen = self._app if app is None else checked_app(app)
        if chosen is None:
            raise ValueError("which app? give app=... to the client or to the call")
        return chosen

    def _begin_many(self, concurrency: int, app: str | None) -> str:
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1: {concurrency}")
        self._sender.require_open()
        return self._app_of_call(app)
