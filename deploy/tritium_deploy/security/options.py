"""The options of `tritium serve` and `tritium rollout` that have to do with security."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tritium_client._admin_key import VARIABLE
from tritium_client._command_options import collected, tls_options
from tritium_client._security import Tls
from tritium_deploy.security import Security, ServerTls

PANEL = "Security"


def security_options(
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Encrypt gRPC with this certificate, and those behind it in the file. PEM.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Its private key. PEM.", rich_help_panel=PANEL),
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Answer clients with a certificate of these authorities only (mutual TLS). PEM.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    admin_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar=VARIABLE,
            help="Keep the key that model control asks for in this file, drawn where there is "
            "none; else it is drawn at each start, where local commands of this user find it.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    open_admin: Annotated[
        bool,
        typer.Option(
            "--open-admin",
            help="Ask for no key: whoever reaches gRPC may change what is served.",
            rich_help_panel=PANEL,
        ),
    ] = False,
    require_signed: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Serve only releases that this public key signed (`tritium keygen`); may be "
            "repeated.",
            rich_help_panel=PANEL,
        ),
    ] = None,
) -> Security:
    """What `tritium serve` is told.

    Raises:
        typer.BadParameter: options that do not go together.
    """
    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("--tls-cert and --tls-key go together")
    if tls_client_ca is not None and tls_cert is None:
        raise typer.BadParameter("--tls-client-ca needs --tls-cert and --tls-key")
    if open_admin and admin_key_file is not None:
        raise typer.BadParameter("give either --open-admin or --admin-key-file")
    tls = None
    if tls_cert is not None and tls_key is not None:
        tls = ServerTls(tls_cert.absolute(), tls_key.absolute(), tls_client_ca)
    return Security(tls, admin_key_file, open_admin, tuple(require_signed or ()))


@dataclass(frozen=True)
class GivenAccess:
    """How `tritium rollout` is to reach servers."""

    tls: Tls | None = None
    admin_key_file: Path | None = None
    """None where the key of a local server is to be found, or none is asked for."""

    def read_key(self) -> str | None:
        """The key in the file; None without one.

        Raises:
            AdminKeyError: the file holds none, or others can read it.
        """
        from tritium_deploy.security.admin_key import read_key

        return None if self.admin_key_file is None else read_key(self.admin_key_file)


NOTHING_GIVEN = GivenAccess()


@collected("tls", tls_options)
def access_options(
    admin_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar=VARIABLE,
            help="The servers' admin key; that of a server of this user on this machine is found.",
        ),
    ] = None,
    tls: Tls | None = None,
) -> GivenAccess:
    """How `tritium rollout` is told to reach servers."""
    return GivenAccess(tls, admin_key_file)
