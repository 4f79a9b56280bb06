"""Options that several commands share, and what they come to.

    @collected("tls", tls_options)
    def classify(app: str, tls: Tls | None = None) -> None: ...

`tritium classify` then has the options of `tls_options`, and `classify` gets what that returns.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from tritium_client._security import Tls

PANEL = "TLS"


def collected(
    name: str, make: Callable[..., Any]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options of `make` in place of its argument `name`, which `make` makes.

    `make` itself may have been given options in the same way.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = inspect.signature(command, eval_str=True)
        shared = inspect.signature(make, eval_str=True).parameters

        @functools.wraps(command)
        def call(**given: Any) -> Any:
            made = make(**{option: given.pop(option) for option in shared})
            return command(**given, **{name: made})

        parameters = [one for one in own.parameters.values() if one.name != name]
        parameters += shared.values()
        options = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
        # Typer reads both.
        call.__signature__ = own.replace(parameters=options)  # type: ignore[attr-defined]
        call.__annotations__ = {one.name: one.annotation for one in options}
        return call

    return decorate


def tls_options(
    tls: Annotated[
        bool,
        typer.Option(
            "--tls",
            envvar="TRITIUM_TLS",
            help="Encrypt; the authorities that gRPC ships vouch for the server.",
            rich_help_panel=PANEL,
        ),
    ] = False,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="TRITIUM_TLS_CA",
            help="Encrypt; these authorities vouch for the server. PEM.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="TRITIUM_TLS_CERT",
            help="One's own certificate, for mutual TLS. PEM.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="TRITIUM_TLS_KEY",
            help="The private key of --tls-cert.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    tls_server_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            envvar="TRITIUM_TLS_SERVER_NAME",
            help="What the server's certificate says, where that is not its address.",
            rich_help_panel=PANEL,
        ),
    ] = None,
) -> Tls | None:
    """How a command's connection is encrypted; None for plain text.

    Raises:
        typer.BadParameter: half of a pair, or a name that nothing is compared with.
    """
    if not (tls or tls_ca or tls_cert or tls_key or tls_server_name):
        return None
    try:
        return Tls(tls_ca, tls_cert, tls_key, tls_server_name)
    except ValueError as error:
        raise typer.BadParameter("--tls-cert and --tls-key go together") from error
