"""The servers that share one repository: what each of them has loaded, and calls to all of them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tritium_builders.signing import TrustedKeys
from tritium_client import contract
from tritium_deploy.accelerator import NONE, Accelerator
from tritium_deploy.control import ModelControl
from tritium_deploy.errors import ControlError, KeyRefusedError, UnreachableError
from tritium_deploy.golden import GoldenReplay
from tritium_deploy.live import AppRelease, on_machine, require_signed
from tritium_deploy.machine import Machine, read_machine
from tritium_deploy.security.access import PLAIN, Access
from tritium_deploy.served import entry_point_configs

DEFAULT_ENDPOINT = "127.0.0.1:8001"

Found = TypeVar("Found")


@dataclass(frozen=True)
class ServerState:
    """What one server has of an app."""

    release: int
    """That callers get."""
    rollout: contract.Rollout | None
    """A candidate beside it."""
    graphs: frozenset[int]
    """Releases whose own ensembles are loaded."""
    models: frozenset[str]
    """Every model of the server that takes requests."""
    parameters: Mapping[str, str]
    """What it says of itself; goes into every entry point that is loaded there."""
    response_cache: bool
    """Whether the entry points keep answers."""
    triton: str
    """Its Triton's version."""

    @property
    def machine(self) -> Machine | None:
        """How it runs components; None where it was not started by `tritium serve`."""
        return read_machine(self.parameters.get(contract.PARAM_SERVER_MACHINE, ""))

    @property
    def trusted(self) -> TrustedKeys | None:
        """Who must have signed what it loads; None where anything will do."""
        return TrustedKeys.parse(self.parameters.get(contract.PARAM_SERVER_TRUSTED_KEYS, ""))

    @property
    def accelerator(self) -> Accelerator:
        """What it runs plans with."""
        version = self.parameters.get(contract.PARAM_SERVER_TENSORRT, NONE)
        capability = self.parameters.get(contract.PARAM_SERVER_COMPUTE_CAPABILITY, NONE)
        return Accelerator(*(None if value == NONE else value for value in (version, capability)))


class FleetServer:
    """One server.

    Args:
        endpoint: Its gRPC address, `host:port`.
        access: How it is reached, and what its model control asks for.
    """

    def __init__(self, endpoint: str, access: Access) -> None:
        self.endpoint = endpoint
        self.access = access
        self.control = ModelControl(endpoint, access)
        self.replay = GoldenReplay(endpoint, access)
        self._signed: set[tuple[str, int, TrustedKeys]] = set()

    def state(self, app: str) -> ServerState:
        """What it has of an app.

        Raises:
            UnreachableError: it does not answer, or does not serve the app.
            KeyRefusedError: it wants the admin key.
        """
        with self.explained():
            ready = self.control.ready_models()
            names = [one for one in contract.main_entry_points(app).values() if one in ready]
            if not names:
                raise UnreachableError(self.endpoint, f"does not serve app {app}")
            name = names[0]
            config = self.control.config(name)
            triton = self.control.version()
        values = {key: value.string_value for key, value in config.parameters.items()}
        graph = f"{name}_r"
        numbers = (model.removeprefix(graph) for model in ready if model.startswith(graph))
        return ServerState(
            release=int(values[contract.PARAM_RELEASE]),
            rollout=_rollout(values),
            graphs=frozenset(int(number) for number in numbers if number.isdecimal()),
            models=frozenset(ready),
            parameters={
                key: value
                for key, value in values.items()
                if key.startswith(contract.SERVER_PARAMETERS)
            },
            response_cache=config.response_cache.enable,
            triton=triton,
        )

    def here(self, app: AppRelease, state: ServerState, repository: Path) -> AppRelease:
        """A release with the configs that this server runs it with.

        Raises:
            UnsignedError: the server wants signed releases, and this one is not.
        """
        self._require_signed(app, state, repository)
        machine = state.machine
        return app if machine is None else on_machine(app, machine, repository)

    def entry_points(
        self,
        app: AppRelease,
        rollout: contract.Rollout | None,
        state: ServerState,
        repository: Path,
    ) -> dict[str, Any]:
        """The configs of what callers name, as this server loads them.

        Raises:
            UnsignedError: the server wants signed releases, and this one is not.
        """
        self._require_signed(app, state, repository)
        return entry_point_configs(
            repository, app, rollout, state.parameters, response_cache=state.response_cache
        )

    def _require_signed(self, app: AppRelease, state: ServerState, repository: Path) -> None:
        """Triton loads whatever it is told to; so whoever tells it looks first."""
        trusted = state.trusted
        if trusted is None or (app.name, app.release.number, trusted) in self._signed:
            return
        require_signed(repository, app.release, trusted)
        self._signed.add((app.name, app.release.number, trusted))

    @property
    def alive(self) -> bool:
        """Whether it answers at all."""
        return self.control.live()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Say of a failed call what lies behind it, where that is the server and not the model.

        Raises:
            UnreachableError: the server does not answer.
            KeyRefusedError: it wants the admin key.
            ControlError: anything else.
        """
        try:
            yield
        except ControlError as error:
            if error.code == "UNAVAILABLE" and "restricted" in error.reason:
                raise KeyRefusedError(self.endpoint) from error
            if error.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED") and not self.alive:
                problem = f"does not answer ({error.reason}); is `tritium serve` running there?"
                raise UnreachableError(self.endpoint, problem) from error
            raise

    def close(self) -> None:
        """Close the connections."""
        self.control.close()
        self.replay.close()


class Fleet:
    """All servers of a rollout.

    Args:
        endpoints: `host:port` of each; a name with several addresses is several servers.
        access: How they are reached, and what their model control asks for. Without a key, that
            of a server of this user on this machine is found by its port.

    Raises:
        UnreachableError: a name cannot be resolved.
        ValueError: an endpoint is not host:port.
    """

    def __init__(self, endpoints: Sequence[str], access: Access = PLAIN) -> None:
        found = {
            address: _access_to(address, endpoint, access)
            for endpoint in endpoints
            for address in resolve(endpoint)
        }
        self.servers = [FleetServer(address, known) for address, known in found.items()]

    def each(
        self,
        act: Callable[[FleetServer], Found],
        servers: Sequence[FleetServer] | None = None,
    ) -> dict[FleetServer, Found | Exception]:
        """Do something to all servers side by side.

        Returns:
            Server -> what came of it, its error among that.
        """
        chosen = self.servers if servers is None else servers

        def one(server: FleetServer) -> Found | Exception:
            try:
                return act(server)
            except Exception as error:  # noqa: BLE001 - it is the answer
                return error

        with ThreadPoolExecutor(max(1, len(chosen)), thread_name_prefix="fleet") as pool:
            return dict(zip(chosen, pool.map(one, chosen), strict=True))

    def states(self, app: str) -> dict[FleetServer, ServerState]:
        """What every server has of an app.

        Raises:
            UnreachableError: one does not answer, or does not serve the app.
            KeyRefusedError: one wants the admin key.
        """
        return succeeded(self.each(lambda server: server.state(app)))

    def close(self) -> None:
        """Close all connections."""
        for server in self.servers:
            server.close()


def succeeded(results: Mapping[FleetServer, Found | Exception]) -> dict[FleetServer, Found]:
    """What came of `Fleet.each`, or the first error."""
    found = {}
    for server, result in results.items():
        if isinstance(result, Exception):
            raise result
        found[server] = result
    return found


def resolve(endpoint: str) -> list[str]:
    """Every address behind `host:port`; a name with one address stays a name.

    Raises:
        UnreachableError: the name cannot be resolved.
        ValueError: it is not host:port.
    """
    host, colon, port = endpoint.rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise ValueError(f"endpoint {endpoint!r} is not host:port")
    bare = host.strip("[]")
    try:
        found = socket.getaddrinfo(bare, int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnreachableError(endpoint, f"its name cannot be resolved ({error})") from error
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    if len(addresses) == 1 or bare in ("localhost", *addresses):
        return [endpoint]
    return [f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in addresses]


def _access_to(address: str, endpoint: str, access: Access) -> Access:
    """What one server wants to see; `address` is one of those behind `endpoint`."""
    if access.tls is not None and access.tls.server_name is None and address != endpoint:
        # Its certificate is for the name that somebody gave, not for what that resolves to.
        name = endpoint.rpartition(":")[0].strip("[]")
        access = replace(access, tls=replace(access.tls, server_name=name))
    return access


def _rollout(values: Mapping[str, str]) -> contract.Rollout | None:
    try:
        return contract.parse_rollout(values.get(contract.PARAM_ROLLOUT, ""))
    except ValueError:
        return None
