# Generated from tritium_client/_async by tools/generate_sync.py: change it there.
"""What a server offers, read from the configs of its entry points and from its name."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import service_pb2

from tritium_client import _wire, contract
from tritium_client._call import Call
from tritium_client._exceptions import AppLacksCapability, AppNotFound, InvalidInput, ServerError
from tritium_client._results import AppStatus, EntryPoint, ServerStatus
from tritium_client._sync.sender import Sender
from tritium_client._translation import not_loaded
from tritium_client.contract import Modality, Verb

_MODALITIES: tuple[tuple[Modality, ...], ...] = (("text", "image"), ("text",), ("image",))
_ENTRY_POINTS = tuple((verb, given) for verb in contract.VERBS for given in _MODALITIES)
"""Every one that an app may have."""

Offer = tuple[Verb, _wire.EntryPointConfig]
"""What an entry point does, and what its config says."""


class Catalog:
    """Finds apps, their entry points, and what a release says of itself.

    Args:
        sender: What asks the server.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        # Releases are immutable, so what is read of one stays true.
        self._releases: dict[str, _wire.EntryPointConfig] = {}

    def release(
        self,
        app: str,
        verb: Verb,
        modalities: tuple[Modality, ...],
        number: int,
        call: Call,
        *,
        again: bool = True,
    ) -> _wire.EntryPointConfig:
        """What the release that answered says of itself, not the one that is live by now.

        Raises:
            TritiumClientError: as `config`.
        """
        name = contract.release_entry_point(app, verb, modalities, number)
        config = self._releases.get(name)
        if config is None:
            config = self._releases[name] = self.config(name, call, again=again)
        return config

    def config(self, name: str, call: Call, *, again: bool = True) -> _wire.EntryPointConfig:
        """What an entry point's config says.

        Args:
            name: The Triton model.
            call: The call that this is a part of.
            again: Whether what failed may be sent again.

        Raises:
            AppNotFound: the server has no such entry point.
            IncompatibleRelease: the release speaks another major version of the contract.
            ServerError: the model is no entry point.
        """
        request = service_pb2.ModelConfigRequest(name=name)
        response = self._sender.send("ModelConfig", request, call, model=name, again=again)
        return _wire.read_config(response.config)

    def read_aside(self, name: str, call: Call) -> _wire.EntryPointConfig:
        """What an entry point's config says, asked for once and beside the calls; as `config`."""
        request = service_pb2.ModelConfigRequest(name=name)
        response = self._sender.send_aside("ModelConfig", request, call, model=name)
        return _wire.read_config(response.config)

    def release_aside(self, name: str, call: Call) -> _wire.EntryPointConfig:
        """What a release says of itself; `name` is its own ensemble's. Else as `read_aside`."""
        config = self._releases.get(name)
        if config is None:
            config = self._releases[name] = self.read_aside(name, call)
        return config

    def learn(
        self,
        app: str,
        verb: Verb,
        modalities: tuple[Modality, ...],
        config: _wire.EntryPointConfig,
    ) -> None:
        """Keep what an alias says of the release behind it, so that it is not asked as well."""
        name = contract.release_entry_point(app, verb, modalities, config.release)
        self._releases.setdefault(name, config)

    def first(self, app: str, call: Call) -> _wire.EntryPointConfig:
        """The first thing that an app answers, in the order of the contract.

        Raises:
            AppNotFound: the server does not serve the app.
        """
        missing: AppNotFound | None = None
        for verb, modalities in _ENTRY_POINTS:
            try:
                return self.config(contract.entry_point(app, verb, modalities), call)
            except AppNotFound as error:
                missing = missing or error
        assert missing is not None  # noqa: S101 - there are entry points
        raise missing

    def offers(self, app: str, call: Call) -> list[Offer]:
        """Everything that an app answers, at least one; in the order of the contract.

        Raises:
            AppNotFound: the server does not serve the app.
        """
        found: list[Offer] = []
        missing: AppNotFound | None = None
        for verb, modalities in _ENTRY_POINTS:
            try:
                name = contract.entry_point(app, verb, modalities)
                found.append((verb, self.config(name, call)))
            except AppNotFound as error:
                missing = missing or error
        if not found and missing is not None:
            raise missing
        return found

    def status(self, app: str, call: Call) -> AppStatus:
        """Sum up what an app offers."""
        offers = self.offers(app, call)
        ready = True
        for verb, config in offers:
            ready = self._is_ready(app, verb, config.modalities, call) and ready
        first = offers[0][1]
        return AppStatus(
            app=app,
            ready=ready,
            release=first.release,
            task=first.task,
            labels=first.labels,
            entry_points=tuple(EntryPoint(verb, config.modalities) for verb, config in offers),
            target=first.target,
            precision=first.precision,
            wire_version=first.wire_version,
        )

    def apps(self, hint: str | None, call: Call) -> tuple[str, ...]:
        """The apps that the server serves, sorted.

        A server that Tritium started names those that it started with; their entry points name
        those that came later.

        Args:
            hint: An app that it may serve, for a server that somebody else started.
            call: The call that this is a part of.

        Raises:
            ServerError: the server does not say, and the hint does not help.
        """
        request = service_pb2.ServerMetadataRequest()
        metadata = self._sender.send("ServerMetadata", request, call)
        named = contract.parse_server_id(metadata.name)
        if named is None and hint is None:
            raise ServerError(
                f"{call.endpoint} does not say which apps it serves, as a server that "
                "`tritium serve` started does; name one (app=..., --app)"
            )
        served: set[str] = set()
        asked: set[str] = set()
        to_ask = [*(named or ()), *([] if hint is None else [hint])]
        while to_ask:
            app = to_ask.pop()
            if app in asked:
                continue
            asked.add(app)
            try:
                config = self.first(app, call)
            except AppNotFound:
                continue
            served.add(app)
            to_ask.extend(name for name in config.server_apps if contract.is_app_name(name))
        return tuple(sorted(served))

    def server(self, call: Call) -> ServerStatus:
        """What the server says of itself."""
        send = self._sender.send
        live = send("ServerLive", service_pb2.ServerLiveRequest(), call)
        ready = send("ServerReady", service_pb2.ServerReadyRequest(), call)
        metadata = send("ServerMetadata", service_pb2.ServerMetadataRequest(), call)
        return ServerStatus(self._sender.endpoint, live.live, ready.ready, metadata.version)

    def explain(
        self,
        error: AppNotFound | InvalidInput,
        asked: str,
        app: str,
        verb: Verb,
        modalities: tuple[Modality, ...],
        call: Call,
    ) -> None:
        """Look for what lies behind Triton's refusal of a request; return when it says it all.

        Args:
            error: The refusal.
            asked: The Triton model that was asked.
            app: The app that it belongs to.
            verb: What was to be done.
            modalities: What was given.
            call: The call that this is a part of.

        Raises:
            AppLacksCapability: the app is there, and answers something else.
            AppNotFound: the server does not serve the app, or (retryable) not at the moment.
            IncompatibleRelease: another major version has other tensors than were sent.
            TritiumClientError: what came of looking.
        """
        if isinstance(error, InvalidInput):
            if error.stage == "request":
                self.config(asked, call)
            return
        if error.retryable:
            return
        try:
            offers = self.offers(app, call)
        except AppNotFound as absent:
            raise (self._is_coming(app, call) or absent) from error
        if any(asked in config.entry_points for _, config in offers):
            raise not_loaded(call.endpoint, asked) from error
        answers = " or ".join(f"{does} {' + '.join(one.modalities)}" for does, one in offers)
        raise AppLacksCapability(
            f"{app!r} answers {answers}, not {verb} {' + '.join(modalities)}"
        ) from error

    def _is_coming(self, app: str, call: Call) -> AppNotFound | None:
        """The error of an app that the server names as its own and has nothing of now."""
        request = service_pb2.ServerMetadataRequest()
        metadata = self._sender.send("ServerMetadata", request, call)
        if app not in (contract.parse_server_id(metadata.name) or ()):
            return None
        return not_loaded(call.endpoint, app)

    def _is_ready(self, app: str, verb: Verb, modalities: tuple[Modality, ...], call: Call) -> bool:
        name = contract.entry_point(app, verb, modalities)
        request = service_pb2.ModelReadyRequest(name=name)
        try:
            response: Any = self._sender.send("ModelReady", request, call, model=name, again=False)
        except AppNotFound:  # of several servers, none has it
            return False
        return bool(response.ready)
