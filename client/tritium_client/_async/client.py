"""The client: one typed call for each thing that an app can do."""

from __future__ import annotations

from collections.abc import AsyncIterator

from tritium_client import _wire
from tritium_client._arguments import check_top_k
from tritium_client._async.connection import DEFAULT_TIMEOUT_S, AsyncConnection
from tritium_client._async.many import Items, run_many
from tritium_client._exceptions import InvalidInput
from tritium_client._inputs import ImageInput, Item, TextInput, inputs_to_bytes, unpack_item
from tritium_client._results import (
    Annotation,
    Classification,
    Embedding,
    ItemResult,
    Score,
    Tagging,
)
from tritium_client._tags import read_entities, read_tags


class AsyncClient(AsyncConnection):
    """Calls the apps of a server over gRPC. Safe to use from several callers at a time.

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
        admin_key_file: Holds the admin key that a server asks for before it reads a client's shared
            memory; None for the file that a server of this user on this machine leaves, or
            `$TRITIUM_ADMIN_KEY_FILE`. Without the key, inputs travel as messages.
        retries: When a failed call is sent again; `RetryPolicy(attempts=1)` for never.
        hedging: When a slow call is sent a second time beside the first; None for never.
        max_in_flight: Requests that may be under way at a time, at least 1. A call beyond that
            waits for a place, within its own deadline.
        transport: `"grpc"`: everything travels as a message. `"shared_memory"`: inputs from 256 KiB
            are handed to a server on this host through shared memory (Linux). `"auto"` chooses; as
            measured, it chooses gRPC. Or an object that carries the requests in place of gRPC, for
            instance a mock; `url` is then not used.
        labelling_queue: Keeps a sample of what is classified for people to label; None for never.

    Raises:
        ValueError: when `url` is not host:port, `app` cannot be an app's name, a token would travel
            in plain text, a file of `tls` cannot be read, `transport` is no such name, or
            `max_in_flight` is below 1.

    Examples:
        >>> async with AsyncClient("localhost:8001", app="openmoji") as client:
        ...     answer = await client.classify(text="red apple", image="apple.png", timeout_s=0.5)
    """

    async def classify(
        self,
        *,
        text: TextInput | None = None,
        image: ImageInput | None = None,
        top_k: int = 5,
        max_side: int | None = None,
        route_key: str | None = None,
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
            max_side: Scale a picture down before it travels, so that its longer side has at most
                this many pixels (needs Pillow). The answer may differ a little from that for the
                whole picture; None sends it as it is.
            route_key: For instance a user's id: while a new release is tried out, all calls with
                one key meet the same release. None lets each call fall where it may.
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
            ValueError: `top_k`, `max_side`, `route_key`, `timeout_s` or `app` could never be right.
        """
        check_top_k(top_k)
        app = self._app_of_call(app)
        with self._sender.begin(timeout_s) as call:
            inputs = inputs_to_bytes(text, image, max_side=max_side)
            answer = await self._router.ask(app, "classify", inputs, call, route_key)
            ranking = _wire.rank(answer.release.labels, answer.values, top_k)
            return Classification(
                label=ranking[0].label,
                probability=ranking[0].probability,
                ranking=ranking,
                probabilities=answer.values,
                release=answer.release.release,
                request_id=call.request_id,
                timing=call.timing,
            )

    async def annotate(
        self,
        *,
        text: TextInput | None = None,
        image: ImageInput | None = None,
        max_side: int | None = None,
        route_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        app: str | None = None,
    ) -> Annotation:
        """Find all labels that hold for a text, a picture, or both together (multi-label).

        Args:
            text: As `classify`.
            image: As `classify`.
            max_side: As `classify`.
            route_key: As `classify`.
            timeout_s: Seconds for everything that the call does.
            app: The app, when it is not the client's own.

        Raises:
            AppLacksCapability: the app has no such answer to these modalities.
            TritiumClientError: as `classify`.
        """
        app = self._app_of_call(app)
        with self._sender.begin(timeout_s) as call:
            inputs = inputs_to_bytes(text, image, max_side=max_side)
            answer = await self._router.ask(app, "annotate", inputs, call, route_key)
            release = answer.release
            ranking = _wire.rank(release.labels, answer.values, len(release.labels))
            least = dict(zip(release.labels, release.thresholds, strict=True))
            return Annotation(
                labels=tuple(one for one in ranking if one.probability >= least[one.label]),
                ranking=ranking,
                probabilities=answer.values,
                thresholds=least,
                release=release.release,
                request_id=call.request_id,
                timing=call.timing,
            )

    def classify_many(
        self,
        items: Items,
        *,
        concurrency: int = 16,
        ordered: bool = True,
        top_k: int = 5,
        max_side: int | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        app: str | None = None,
    ) -> AsyncIterator[ItemResult[Classification]]:
        """Classify any number of items, a few at a time; one that fails does not stop the others.

        Items are read only as fast as results are taken, so that a stream of millions needs the
        memory of `concurrency` of them.

        Args:
            items: Mappings with `text`, `image`, `route_key`, or pairs (text, image).
            concurrency: Calls in flight at the most, at least 1.
            ordered: Give results in the order of the items, else as they come.
            top_k: As `classify`.
            max_side: As `classify`.
            timeout_s: Seconds for each item.
            app: The app, when it is not the client's own.

        Returns:
            An iterator: for each item its index with a result or an error.

        Raises:
            ClientClosed: the client is closed.
            ValueError: `concurrency`, `top_k`, `timeout_s` or `app` could never be right.
        """
        check_top_k(top_k)
        app = self._begin_many(concurrency, app)

        async def ask(index: int, item: Item) -> Classification:
            text, image, route_key = unpack_item(item, index)
            return await self.classify(
                text=text,
                image=image,
                top_k=top_k,
                max_side=max_side,
                route_key=route_key,
                timeout_s=timeout_s,
                app=app,
            )

        return run_many(items, ask, concurrency, ordered=ordered)

    def embed_many(
        self,
        items: Items,
        *,
        concurrency: int = 16,
        ordered: bool = True,
        max_side: int | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        app: str | None = None,
    ) -> AsyncIterator[ItemResult[Embedding]]:
        """Embed any number of texts and pictures, as `classify_many` classifies them.

        Args:
            items: As `classify_many`, but with either a text or an image.
            concurrency: As `classify_many`.
            ordered: As `classify_many`.
            max_side: As `classify`.
            timeout_s: Seconds for each item.
            app: The app, when it is not the client's own.

        Returns:
            An iterator: for each item its index with a result or an error.

        Raises:
            ClientClosed: the client is closed.
            ValueError: `concurrency`, `timeout_s` or `app` could never be right.
        """
        app = self._begin_many(concurrency, app)

        async def ask(index: int, item: Item) -> Embedding:
            text, image, route_key = unpack_item(item, index)
            if text is not None and image is not None:
                reason = "an embedding is of a text or of a picture; give one of them"
                raise InvalidInput("client", index, reason)
            return await self._embed(app, text, image, max_side, route_key, timeout_s)

        return run_many(items, ask, concurrency, ordered=ordered)

    async def embed_text(
        self,
        text: TextInput,
        *,
        route_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        app: str | None = None,
    ) -> Embedding:
        """Embed a text in the space that the app's texts and pictures share.

        Args:
            text: As `classify`.
            route_key: As `classify`.
            timeout_s: Seconds for everything that the call does.
            app: The app, when it is not the client's own.

        Raises:
            AppLacksCapability: the app embeds no texts.
            TritiumClientError: as `classify`.
        """
        return await self._embed(app, text, None, None, route_key, timeout_s)

    async def embed_image(
        self,
        image: ImageInput,
        *,
        max_side: int | None = None,
        route_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        app: str | None = None,
    ) -> Embedding:
        """Embed a picture in the space that the app's texts and pictures share.

        Args:
            image: As `classify`.
            max_side: As `classify`.
            route_key: As `classify`.
            timeout_s: Seconds for everything that the call does.
            app: The app, when it is not the client's own.

        Raises:
            AppLacksCapability: the app embeds no pictures.
            TritiumClientError: as `classify`.
        """
        return await self._embed(app, None, image, max_side, route_key, timeout_s)

    async def tag(
        self,
        text: TextInput,
        image: ImageInput | None = None,
        *,
        max_side: int | None = None,
        route_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        app: str | None = None,
    ) -> Tagging:
        """Tag the words of a text, with the help of a picture where the app takes one.

        Args:
            text: As `classify`.
            image: As `classify`.
            max_side: As `classify`.
            route_key: As `classify`.
            timeout_s: Seconds for everything that the call does.
            app: The app, when it is not the client's own.

        Raises:
            AppLacksCapability: the app tags no words, or not without a picture.
            TritiumClientError: as `classify`.
        """
        app = self._app_of_call(app)
        with self._sender.begin(timeout_s) as call:
            inputs = inputs_to_bytes(text, image, max_side=max_side)
            answer = await self._router.ask(app, "tag", inputs, call, route_key)
            words = inputs["text"].decode()
            tags = read_tags(words, answer.release.labels, answer.values, answer.offsets)
            return Tagging(
                tags=tags,
                entities=read_entities(words, tags),
                release=answer.release.release,
                request_id=call.request_id,
                timing=call.timing,
            )

    async def score(
        self,
        *,
        text: TextInput | None = None,
        image: ImageInput | None = None,
        max_side: int | None = None,
        route_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        app: str | None = None,
    ) -> Score:
        """Predict numbers for a text, a picture, or both together (regression).

        Args:
            text: As `classify`.
            image: As `classify`.
            max_side: As `classify`.
            route_key: As `classify`.
            timeout_s: Seconds for everything that the call does.
            app: The app, when it is not the client's own.

        Raises:
            AppLacksCapability: the app predicts no numbers from these modalities.
            TritiumClientError: as `classify`.
        """
        app = self._app_of_call(app)
        with self._sender.begin(timeout_s) as call:
            inputs = inputs_to_bytes(text, image, max_side=max_side)
            answer = await self._router.ask(app, "score", inputs, call, route_key)
            return Score(
                value=float(answer.values[0]),
                values=answer.values,
                names=answer.release.labels,
                release=answer.release.release,
                request_id=call.request_id,
                timing=call.timing,
            )

    async def _embed(
        self,
        app: str | None,
        text: TextInput | None,
        image: ImageInput | None,
        max_side: int | None,
        route_key: str | None,
        timeout_s: float,
    ) -> Embedding:
        app = self._app_of_call(app)
        with self._sender.begin(timeout_s) as call:
            inputs = inputs_to_bytes(text, image, max_side=max_side)
            answer = await self._router.ask(app, "embed", inputs, call, route_key)
            return Embedding(
                vector=answer.values,
                release=answer.release.release,
                request_id=call.request_id,
                timing=call.timing,
            )
