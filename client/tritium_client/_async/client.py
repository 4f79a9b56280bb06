"""The client: one typed call for each thing that an app can do."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tritonclient.grpc import service_pb2

from tritium_client import _wire, contract
from tritium_client._async import _io
from tritium_client._async.many import Items, run_many
from tritium_client._async.pool import AsyncPoolTransport
from tritium_client._async.transport import AsyncTransport
from tritium_client._call import Call
from tritium_client._exceptions import (
    AppLacksCapability,
    AppNotFound,
    ClientClosed,
    InvalidInput,
    TritiumClientError,
)
from tritium_client._inputs import (
    ImageInput,
    Item,
    TextInput,
    inputs_to_bytes,
    unpack_item,
)
from tritium_client._options import Method
from tritium_client._results import AppStatus, Classification, ItemResult, ServerStatus
from tritium_client._retries import Retries, RetryPolicy
from tritium_client._security import Security, Tls
from tritium_client.contract import Modality, Verb

if TYPE_CHECKING:
    from typing_extensions import Self

DEFAULT_URL = "localhost:8001"
DEFAULT_TIMEOUT_S = 5.0

_ENTRY_POINTS: tuple[tuple[Modality, ...], ...] = (("text", "image"), ("text",), ("image",))


class AsyncClient:
    """Calls the apps of one server over gRPC. Safe to use from several callers at a time.

    Nothing is sent before the first call, so a client can be made before its server is up. A
    failure that the exceptions mark retryable is sent again within the call's deadline, and within
    a budget.

    Args:
        url: host:port of the server's gRPC, or of several servers: requests go to them in turn,
            without those that cannot be reached. A name that resolves to several addresses is
            several servers, too.
        app: The app that calls are for, unless they name another.
        tls: Encrypt the connection; None for plain text.
        token: Sent with every request as `authorization: Bearer ...`. Only over TLS, or to this
            machine.
        metadata: More gRPC metadata for every request, name -> value.
        retries: When a failed call is sent again; `RetryPolicy(attempts=1)` for never.
        transport: What carries the requests in place of gRPC, for instance a mock; `url` is then
            not used.

    Raises:
        ValueError: when `url` is not host:port, `app` cannot be an app's name, a token would travel
            in plain text, or a file of `tls` cannot be read.

    Example:
        >>> async with AsyncClient("localhost:8001", app="openmoji") as client:
        ...     answer = await client.classify(text="red apple", image="apple.png", timeout_s=0.5)
    """

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        app: str | None = None,
        tls: Tls | None = None,
        token: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retries: RetryPolicy | None = None,
        transport: AsyncTransport | None = None,
    ) -> None:
        endpoints = _checked_endpoints(url)
        self._app = None if app is None else _checked_app(app)
        security = Security(tls, token, metadata or {})
        self._transport = transport or AsyncPoolTransport(endpoints, security)
        self._retries = Retries(retries or RetryPolicy())
        self._closed = False
        # Releases are immutable, so what is read of one stays true.
        self._configs: dict[str, _wire.EntryPointConfig] = {}

    @property
    def endpoint(self) -> str:
        """host:port of the server; of several, with commas."""
        return self._transport.endpoint

    async def classify(
        self,
        *,
        text: TextInput | None = None,
        image: ImageInput | None = None,
        top_k: int = 5,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        app: str | None = None,
    ) -> Classification:
        """Classify a text, a picture, or both together.

        Args:
            text: A text (bytes are UTF-8), at most 65,536 bytes in UTF-8, or None to leave it
                out. The model reads its first tokens; how many is the bundle's choice.
            image: A path, an encoded picture (JPEG, PNG, WebP, GIF, BMP; at most 20 MiB and 64
                million pixels), a file opened for reading bytes, a Pillow image, or uint8
                [height, width, 3] RGB pixels; None to leave it out. Pixels and Pillow images
                travel as PNG, without loss. A str is always a path.
            top_k: How many labels the ranking holds, at least 1.
            timeout_s: Seconds for everything that the call does.
            app: The app, when it is not the client's own.

        Returns:
            The most probable labels, and the release that computed them.

        Raises:
            InvalidInput: an input is refused, by the client or by a stage of the graph.
            AppNotFound: the server does not serve the app.
            AppLacksCapability: the app does not answer these modalities.
            IncompatibleRelease: the release speaks another major version of the wire contract.
            ServerUnavailable: the server cannot be reached, or a process of it died.
            DeadlineExceeded: no answer within `timeout_s`.
            ServerError: the server failed in a way that it should not.
            ClientClosed: the client is closed.
            ValueError: `top_k`, `timeout_s` or `app` could never be right.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1: {top_k}")
        app = self._app_of_call(app)
        with self._call(timeout_s) as call:
            inputs = inputs_to_bytes(text, image)
            response = await self._infer(app, "classify", inputs, call)
            release = _wire.read_release(response)
            config = await self._release_config(app, "classify", tuple(inputs), release, call)
            labels = config.labels
            probabilities = _wire.read_probabilities(response, len(labels))
            ranking = _wire.rank(labels, probabilities, top_k)
            return Classification(
                label=ranking[0].label,
                probability=ranking[0].probability,
                ranking=ranking,
                probabilities=probabilities,
                release=release,
                request_id=call.request_id,
                latency_s=call.elapsed_s,
            )

    def classify_many(
        self,
        items: Items,
        *,
        concurrency: int = 16,
        ordered: bool = True,
        top_k: int = 5,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        app: str | None = None,
    ) -> AsyncIterator[ItemResult]:
        """Classify any number of items, a few at a time; one that fails does not stop the others.

        Items are read only as fast as results are taken, so that a stream of millions needs the
        memory of `concurrency` of them.

        Args:
            items: Mappings with `text`, `image` or both, or pairs (text, image).
            concurrency: Calls in flight at the most, at least 1.
            ordered: Give results in the order of the items, else as they come.
            top_k: As `classify`.
            timeout_s: Seconds for each item.
            app: The app, when it is not the client's own.

        Returns:
            An iterator: for each item its index with a result or an error.

        Raises:
            ClientClosed: the client is closed.
            ValueError: `concurrency`, `top_k`, `timeout_s` or `app` could never be right.
        """
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1: {concurrency}")
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1: {top_k}")
        app = self._app_of_call(app)
        self._require_open()

        async def ask(index: int, item: Item) -> ItemResult:
            try:
                text, image = unpack_item(item, index)
                return ItemResult(
                    index,
                    await self.classify(
                        text=text, image=image, top_k=top_k, timeout_s=timeout_s, app=app
                    ),
                )
            except ClientClosed:
                raise
            except TritiumClientError as error:
                return ItemResult(index, error=error)

        return run_many(items, ask, concurrency, ordered=ordered)

    async def labels(
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
        with self._call(timeout_s) as call:
            found = await self._entry_points(app, call)
            return found[0].labels

    async def status(
        self, app: str | None = None, *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> AppStatus:
        """What the server says of an app: release, labels, modalities, target.

        Args:
            app: The app, when it is not the client's own.
            timeout_s: Seconds for the whole call.

        Raises:
            AppNotFound: the server does not serve the app.
            TritiumClientError: as `classify`.
        """
        app = self._app_of_call(app)
        with self._call(timeout_s) as call:
            found = await self._entry_points(app, call)
            ready = True
            for config in found:
                ready = await self._is_ready(app, config.modalities, call) and ready
        first = found[0]
        return AppStatus(
            app=app,
            ready=ready,
            release=first.release,
            task=first.task,
            labels=first.labels,
            entry_points=tuple(config.modalities for config in found),
            target=first.target,
            precision=first.precision,
            wire_version=first.wire_version,
        )

    async def server_status(self, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> ServerStatus:
        """What the server says of itself.

        Args:
            timeout_s: Seconds for the whole call.

        Raises:
            TritiumClientError: as `classify`; ServerUnavailable when nobody answers.
        """
        with self._call(timeout_s) as call:
            live = await self._send("ServerLive", service_pb2.ServerLiveRequest(), call)
            ready = await self._send("ServerReady", service_pb2.ServerReadyRequest(), call)
            metadata = await self._send("ServerMetadata", service_pb2.ServerMetadataRequest(), call)
        return ServerStatus(
            endpoint=self.endpoint,
            live=live.live,
            ready=ready.ready,
            version=metadata.version,
        )

    async def apps(self, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> tuple[str, ...]:
        """The apps that the server serves, sorted. Needs the server's repository index.

        Args:
            timeout_s: Seconds for the whole call.

        Raises:
            TritiumClientError: as `classify`.
        """
        with self._call(timeout_s) as call:
            request = service_pb2.RepositoryIndexRequest(ready=True)
            index = await self._send("RepositoryIndex", request, call)
        names = (re.fullmatch(r"(\w+?)_classify(_text|_image)?", m.name) for m in index.models)
        return tuple(sorted({name[1] for name in names if name and contract.is_app_name(name[1])}))

    async def close(self) -> None:
        """Release the connection; what is in flight ends with ClientClosed. Twice is fine."""
        self._closed = True
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        app = "" if self._app is None else f", app={self._app!r}"
        return f"{type(self).__name__}({self.endpoint!r}{app})"

    def _app_of_call(self, app: str | None) -> str:
        chosen = self._app if app is None else _checked_app(app)
        if chosen is None:
            raise ValueError("which app? give app=... to the client or to the call")
        return chosen

    def _call(self, timeout_s: float) -> Call:
        self._require_open()
        self._retries.earn()
        return Call(self.endpoint, timeout_s)

    def _require_open(self) -> None:
        if self._closed:
            raise ClientClosed(f"this client of {self.endpoint} is closed; make a new one")

    async def _send(self, method: Method, request: Any, call: Call, *, model: str = "") -> Any:
        """Send a request, and send it again as far as deadline, policy and budget allow."""
        attempt = 1
        while True:
            if method == "ModelInfer":
                _wire.set_timeout(request, call.remaining_s())
            call.attempts += 1
            try:
                return await self._transport.send(method, request, call, model=model)
            except TritiumClientError as error:
                left = call.timeout_s - call.elapsed_s
                pause_s = self._retries.pause_s(error, attempt, left)
                if pause_s is None:
                    raise
            await _io.sleep(pause_s)
            attempt += 1

    def _choose_entry_point(
        self, app: str, verb: Verb, modalities: tuple[Modality, ...], call: Call
    ) -> str:
        """Which Triton model answers this request; rollouts send a share of them elsewhere."""
        del call
        return contract.entry_point(app, verb, modalities)

    async def _infer(self, app: str, verb: Verb, inputs: dict[Modality, bytes], call: Call) -> Any:
        modalities = tuple(inputs)
        name = self._choose_entry_point(app, verb, modalities, call)
        request = _wire.infer_request(
            name, inputs, request_id=call.request_id, timeout_s=call.remaining_s()
        )
        try:
            return await self._send("ModelInfer", request, call, model=name)
        except AppNotFound as error:
            if not error.retryable:
                await self._explain_not_found(app, modalities, call, error)
            raise
        except InvalidInput as error:
            if error.stage == "request":
                # Another major version has other tensors; say that rather than their names.
                await self._fetch_config(name, call)
            raise

    async def _explain_not_found(
        self, app: str, modalities: tuple[Modality, ...], call: Call, error: AppNotFound
    ) -> None:
        found = await self._entry_points(app, call)
        answers = " or ".join(" + ".join(config.modalities) for config in found)
        raise AppLacksCapability(
            f"{app!r} answers {answers}; {' + '.join(modalities)} was given"
        ) from error

    async def _release_config(
        self, app: str, verb: Verb, modalities: tuple[Modality, ...], release: int, call: Call
    ) -> _wire.EntryPointConfig:
        """What the release that answered says of itself, not the one that is live by now."""
        name = contract.release_entry_point(app, verb, modalities, release)
        config = self._configs.get(name)
        if config is None:
            config = self._configs[name] = await self._fetch_config(name, call)
        return config

    async def _entry_points(self, app: str, call: Call) -> list[_wire.EntryPointConfig]:
        """The configs of an app's aliases, at least one."""
        found: list[_wire.EntryPointConfig] = []
        missing: AppNotFound | None = None
        for modalities in _ENTRY_POINTS:
            try:
                name = contract.entry_point(app, "classify", modalities)
                found.append(await self._fetch_config(name, call))
            except AppNotFound as error:
                missing = missing or error
        if not found and missing is not None:
            raise missing
        return found

    async def _fetch_config(self, name: str, call: Call) -> _wire.EntryPointConfig:
        request = service_pb2.ModelConfigRequest(name=name)
        response = await self._send("ModelConfig", request, call, model=name)
        return _wire.read_config(response.config)

    async def _is_ready(self, app: str, modalities: tuple[Modality, ...], call: Call) -> bool:
        name = contract.entry_point(app, "classify", modalities)
        request = service_pb2.ModelReadyRequest(name=name)
        response = await self._send("ModelReady", request, call, model=name)
        return bool(response.ready)


def _checked_endpoints(url: str | Sequence[str]) -> tuple[str, ...]:
    endpoints = (url,) if isinstance(url, str) else tuple(url)
    if not endpoints:
        raise ValueError("url names no server; give at least one host:port")
    for endpoint in endpoints:
        if re.fullmatch(r"[^\s/,]+:\d{1,5}", endpoint) is None:
            raise ValueError(
                f"url must be host:port, for instance {DEFAULT_URL!r}, not {endpoint!r}"
            )
    return endpoints


def _checked_app(app: str) -> str:
    if not contract.is_app_name(app):
        raise ValueError(f"{app!r} is no app name: lower-case letters, digits and _, at most 63")
    return app
