"""The configuration of Envoy in front of servers: deploy/envoy/, with what varies filled in.

The files there are the whole of it, and run as they are. Here a few of their fields are set; what a
setting leaves alone stays as it is written and explained there.
"""

from __future__ import annotations

import json
import re
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tritium_builders.errors import needs
from tritium_deploy.errors import EnvoyConfigError

_INSTALLED = Path(__file__).parent / "configs" / "envoy"
FILES = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1] / "envoy"
"""Of the wheel, or of the source tree."""
SERVICE = "/inference.GRPCInferenceService/"
MEBIBYTE = 1024 * 1024
TLS_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
HEAD = "# From `tritium envoy-config`; deploy/envoy/ and docs/envoy.md say what it means.\n"
PLAIN = {
    "name": "envoy.transport_sockets.raw_buffer",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
    },
}

Config = dict[str, Any]


@dataclass(frozen=True)
class Endpoint:
    """One server, or a DNS name with an address for each of several."""

    host: str
    grpc_port: int = 8001
    ready_port: int = 8003

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read `HOST[:GRPC_PORT[:READY_PORT]]`; an IPv6 address stands in brackets.

        Raises:
            EnvoyConfigError: it is something else.
        """
        found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(?::(\d{1,5}))?(?::(\d{1,5}))?", text)
        if found is None:
            raise EnvoyConfigError(f"endpoint {text!r} is not HOST[:GRPC_PORT[:READY_PORT]]")
        host, grpc_port, ready_port = found.groups()
        ports = int(grpc_port or cls.grpc_port), int(ready_port or cls.ready_port)
        for port in ports:
            if not 1 <= port <= 65535:
                raise EnvoyConfigError(f"endpoint {text!r}: port {port} is not between 1 and 65535")
        return cls(host.strip("[]"), *ports)


@dataclass(frozen=True)
class Certificates:
    """PEM files, with the paths that they have where Envoy runs."""

    certificate: str
    key: str
    ca: str | None = None
    """Who may have signed the other side's certificate; None asks callers for none."""


@dataclass(frozen=True)
class EnvoySettings:
    """What varies from one place to another; the defaults are those of deploy/envoy/envoy.yaml."""

    endpoints: tuple[Endpoint, ...] = (Endpoint("tritium-headless"),)
    host: str = "0.0.0.0"  # noqa: S104 # nosec B104 # others shall reach it
    port: int = 8443
    status_port: int = 9902
    admin_port: int = 9901
    folder: str = "/etc/envoy"
    """Where the files lie on the machine that Envoy runs on."""
    tls: Certificates | None = Certificates("/etc/envoy/tls/tls.crt", "/etc/envoy/tls/tls.key")
    """What callers are shown; None for plain text. With a `ca`, callers show one as well."""
    upstream_ca: str | None = None
    """Who signed the servers' certificates; None for plain text to the servers."""
    upstream_certificate: Certificates | None = None
    """What servers are shown that ask for it."""
    max_request_bytes: int = 22 * MEBIBYTE
    deadline_s: float = 60.0
    """The longest that an inference may take, whatever its caller allows."""
    also: tuple[str, ...] = ()
    """More RPCs of Triton's service that callers may use, for instance `ModelStatistics`."""

    def __post_init__(self) -> None:
        """Refuse what Envoy would refuse, or would not do.

        Raises:
            EnvoyConfigError: naming the setting.
        """
        if not self.endpoints:
            raise EnvoyConfigError("Envoy needs at least one endpoint")
        if len({self.port, self.status_port, self.admin_port}) < 3:
            raise EnvoyConfigError(
                f"each port must be another one, not {self.port}, {self.status_port}, "
                f"{self.admin_port}"
            )
        if self.max_request_bytes < 1 or self.deadline_s <= 0:
            raise EnvoyConfigError("the limits of size and time must be above 0")
        if self.upstream_certificate is not None and self.upstream_ca is None:
            raise EnvoyConfigError("a certificate for the servers needs the authority of theirs")
        known = _rpcs()
        for rpc in self.also:
            if rpc not in known:
                raise EnvoyConfigError(
                    f"Triton has no unary RPC {rpc!r}; it has {', '.join(known)}"
                )


def envoy_config(settings: EnvoySettings | None = None) -> dict[str, Config]:
    """Fill in deploy/envoy/.

    Args:
        settings: What varies; None for the files as they are.

    Returns:
        File name -> content: `envoy.yaml` and, with TLS, `certificate.yaml` beside it.
    """
    settings = settings or EnvoySettings()
    bootstrap = _read("envoy.yaml")
    listeners = {one["name"]: one for one in bootstrap["static_resources"]["listeners"]}
    clusters = {one["name"]: one for one in bootstrap["static_resources"]["clusters"]}
    _set_ports(bootstrap, listeners, clusters, settings)
    _set_limits(_manager(listeners["grpc"]), settings)
    _set_endpoints(clusters["tritium"], settings.endpoints)
    if settings.upstream_ca is not None:
        _set_upstream_tls(clusters["tritium"], settings)
    files = {"envoy.yaml": bootstrap}
    if settings.tls is None:
        chain = listeners["grpc"]["filter_chains"][0]
        del chain["transport_socket"], chain["transport_socket_connect_timeout"]
    else:
        files["certificate.yaml"] = _set_tls(listeners["grpc"], settings.tls, settings.folder)
    return files


def write_envoy_config(folder: Path, settings: EnvoySettings | None = None) -> list[Path]:
    """Write what `envoy_config` gives; the folder is made where it is missing.

    Raises:
        EnvoyConfigError: the folder cannot be written.
    """
    files = envoy_config(settings)
    import yaml

    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            text = yaml.safe_dump(content, sort_keys=False, width=100)
            (folder / name).write_text(HEAD + text, encoding="utf-8")
            written.append(folder / name)
    except OSError as error:
        raise EnvoyConfigError(f"{folder} cannot be written: {error.strerror}") from error
    return written


def _read(name: str) -> Config:
    with needs("serve"):
        import yaml
    read = yaml.safe_load((FILES / name).read_text(encoding="utf-8"))
    content: Config = json.loads(json.dumps(read))  # what an alias shares becomes two
    return content


def _set_ports(
    bootstrap: Config,
    listeners: dict[str, Config],
    clusters: dict[str, Config],
    settings: EnvoySettings,
) -> None:
    _address(bootstrap["admin"])["port_value"] = settings.admin_port
    _address(_lb_endpoints(clusters["admin"])[0]["endpoint"])["port_value"] = settings.admin_port
    for name, port in (("grpc", settings.port), ("status", settings.status_port)):
        _address(listeners[name]).update(address=settings.host, port_value=port)


def _set_limits(manager: Config, settings: EnvoySettings) -> None:
    (buffer,) = (one for one in manager["http_filters"] if one["name"].endswith(".buffer"))
    buffer["typed_config"]["max_request_bytes"] = settings.max_request_bytes
    deadline = f"{settings.deadline_s:g}s"
    manager["stream_idle_timeout"] = f"{settings.deadline_s + 5:g}s"
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    named = {route["name"]: route["route"] for route in routes if {"name", "route"} <= set(route)}
    limit = {"max_stream_duration": deadline, "grpc_timeout_header_max": deadline}
    named["infer"]["max_stream_duration"] = limit
    routes[-1:-1] = [  # the last one refuses all that is left
        {"match": {"path": SERVICE + rpc}, "route": deepcopy(named["ask"])} for rpc in settings.also
    ]


def _set_endpoints(cluster: Config, endpoints: tuple[Endpoint, ...]) -> None:
    _lb_endpoints(cluster)[:] = [
        {
            "endpoint": {
                "address": {"socket_address": {"address": one.host, "port_value": one.grpc_port}},
                "health_check_config": {"port_value": one.ready_port},
            }
        }
        for one in endpoints
    ]


def _set_tls(listener: Config, tls: Certificates, folder: str) -> Config:
    """Name the files of the listener's certificate; returns what certificate.yaml holds."""
    context = listener["filter_chains"][0]["transport_socket"]["typed_config"]
    common = context["common_tls_context"]
    (named,) = common["tls_certificate_sds_secret_configs"]
    named["sds_config"]["path_config_source"]["path"] = f"{folder}/certificate.yaml"
    if tls.ca is not None:
        context["require_client_certificate"] = True
        common["validation_context"] = {"trusted_ca": {"filename": tls.ca}}
    secret = _read("certificate.yaml")
    certificate = secret["resources"][0]["tls_certificate"]
    certificate["certificate_chain"]["filename"] = tls.certificate
    certificate["private_key"]["filename"] = tls.key
    certificate["watched_directory"]["path"] = str(PurePosixPath(tls.certificate).parent)
    return secret


def _set_upstream_tls(cluster: Config, settings: EnvoySettings) -> None:
    """Talk TLS to the servers; `/ready` stays plain, as `tritium serve` answers it."""
    common: Config = {
        "alpn_protocols": ["h2"],
        "validation_context": {"trusted_ca": {"filename": settings.upstream_ca}},
    }
    own = settings.upstream_certificate
    if own is not None:
        common["tls_certificates"] = [
            {
                "certificate_chain": {"filename": own.certificate},
                "private_key": {"filename": own.key},
            }
        ]
    encrypted = {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {"@type": TLS_TYPE + "UpstreamTlsContext", "common_tls_context": common},
    }
    cluster["transport_socket_matches"] = [
        {"name": "health", "match": {"health": True}, "transport_socket": PLAIN},
        {"name": "servers", "match": {}, "transport_socket": encrypted},
    ]
    cluster["health_checks"][0]["transport_socket_match_criteria"] = {"health": True}


def _manager(listener: Config) -> Config:
    manager: Config = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def _address(holder: Config) -> Config:
    address: Config = holder["address"]["socket_address"]
    return address


def _lb_endpoints(cluster: Config) -> list[Config]:
    endpoints: list[Config] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    return endpoints


def _rpcs() -> list[str]:
    from tritonclient.grpc import service_pb2

    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    return [method.name for method in service.methods if not method.client_streaming]
