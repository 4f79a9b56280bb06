"""`tritium envoy-config`: a configuration of Envoy for these servers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritium_builders.errors import TritiumError

EVERYWHERE = "0.0.0.0"  # noqa: S104 # nosec B104 # others shall reach it
EPILOG = """
Examples:

  tritium envoy-config envoy --endpoint 10.0.0.1 --endpoint 10.0.0.2

  tritium envoy-config envoy --endpoint tritium-headless --client-ca /etc/envoy/tls/ca.crt

  tritium envoy-config envoy --endpoint 127.0.0.1:8001:8003 --plain-text --host 127.0.0.1

Paths of certificates are those that they have where Envoy runs; nothing is read from them here.

Exit codes: 0 written; 1 it cannot be made or written; 2 wrong usage.
"""


def envoy_config_command(
    folder: Annotated[
        Path, typer.Argument(help="Where envoy.yaml and certificate.yaml go.", show_default=False)
    ],
    endpoint: Annotated[
        list[str],
        typer.Option(
            help="HOST[:GRPC_PORT[:READY_PORT]] of a server, or a DNS name with the addresses of "
            "several; may be repeated. The ports are 8001 and 8003 unless given."
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Address that Envoy listens on; admin stays on loopback.")
    ] = EVERYWHERE,
    port: Annotated[int, typer.Option(min=1, max=65535, help="gRPC, for callers.")] = 8443,
    status_port: Annotated[
        int, typer.Option(min=1, max=65535, help="/ready and /stats/prometheus.")
    ] = 9902,
    admin_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Envoy's admin interface, on loopback.")
    ] = 9901,
    at: Annotated[
        str, typer.Option(help="Where the files will lie when Envoy reads them.")
    ] = "/etc/envoy",
    certificate: Annotated[
        str, typer.Option(help="What callers are shown; a renewed one is read by itself.")
    ] = "/etc/envoy/tls/tls.crt",
    key: Annotated[str, typer.Option(help="Its private key.")] = "/etc/envoy/tls/tls.key",
    client_ca: Annotated[
        str | None, typer.Option(help="Callers need a certificate that this authority signed.")
    ] = None,
    plain_text: Annotated[
        bool, typer.Option("--plain-text", help="No TLS towards callers.")
    ] = False,
    upstream_ca: Annotated[
        str | None, typer.Option(help="TLS to the servers, whose certificates this one signed.")
    ] = None,
    upstream_certificate: Annotated[
        str | None, typer.Option(help="What servers are shown that ask for a certificate.")
    ] = None,
    upstream_key: Annotated[str | None, typer.Option(help="Its private key.")] = None,
    max_request_mib: Annotated[
        int, typer.Option(min=1, help="The largest request, MiB; pictures may have 20.")
    ] = 22,
    deadline: Annotated[
        float, typer.Option(min=0.1, help="Seconds that an inference may take at the most.")
    ] = 60.0,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="One more RPC that callers may use, e.g. ModelStatistics; repeatable."),
    ] = None,
) -> None:
    """Write a configuration of Envoy: one address for several servers.

    Callers are given inference and what the SDK asks besides. Model control, statistics, logging,
    trace and shared memory stay closed to them.
    """
    from tritium_deploy.envoy import (
        MEBIBYTE,
        Certificates,
        Endpoint,
        EnvoySettings,
        write_envoy_config,
    )

    if (upstream_certificate is None) != (upstream_key is None):
        raise typer.BadParameter("--upstream-certificate and --upstream-key belong together")
    own = None
    if upstream_certificate is not None and upstream_key is not None:
        own = Certificates(upstream_certificate, upstream_key)
    try:
        settings = EnvoySettings(
            endpoints=tuple(Endpoint.parse(one) for one in endpoint),
            host=host,
            port=port,
            status_port=status_port,
            admin_port=admin_port,
            folder=at.rstrip("/"),
            tls=None if plain_text else Certificates(certificate, key, client_ca),
            upstream_ca=upstream_ca,
            upstream_certificate=own,
            max_request_bytes=max_request_mib * MEBIBYTE,
            deadline_s=deadline,
            also=tuple(allow or ()),
        )
        written = write_envoy_config(folder, settings)
    except TritiumError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    for path in written:
        typer.echo(path)
