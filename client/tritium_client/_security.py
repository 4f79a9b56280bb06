"""How a connection is protected, and what every request carries; no secret is ever printed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tritium_client._admin_key import HEADER, is_loopback, local_key, read_key_file

Pem = bytes | str | os.PathLike[str]
"""PEM: its bytes, or the path of a file."""


@dataclass(frozen=True)
class Tls:
    """TLS towards the server, and with a certificate of one's own mutual TLS.

    Examples:
        >>> Client("models.example.org:8001", app="openmoji", tls=Tls(ca="ca.pem"))
    """

    ca: Pem | None = None
    """Who may have signed the server's certificate; None for the authorities that gRPC ships."""
    certificate: Pem | None = None
    """One's own certificate chain, for mutual TLS."""
    key: Pem | None = field(default=None, repr=False)
    """The private key of `certificate`."""
    server_name: str | None = None
    """The name that the server's certificate must carry, where it is not the host of the URL."""

    def __post_init__(self) -> None:
        """Refuse half of a pair.

        Raises:
            ValueError: a certificate without its key, or a key without its certificate.
        """
        if (self.certificate is None) != (self.key is None):
            raise ValueError("mutual TLS needs both certificate and key")

    def credentials(self) -> Any:
        """GRPC's channel credentials.

        Raises:
            ValueError: when a file cannot be read.
        """
        import grpc

        return grpc.ssl_channel_credentials(
            _read("ca", self.ca), _read("key", self.key), _read("certificate", self.certificate)
        )


def _read(name: str, pem: Pem | None) -> bytes | None:
    if pem is None or isinstance(pem, bytes):
        return pem
    try:
        return Path(pem).read_bytes()
    except OSError as error:
        raise ValueError(
            f"tls: {name} {os.fspath(pem)!r} cannot be read ({error.strerror})"
        ) from error


@dataclass(frozen=True)
class Security:
    """What a client's connection and its requests carry."""

    tls: Tls | None = None
    token: str | None = field(default=None, repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)
    admin_key_file: str | os.PathLike[str] | None = None
    """Holds the key that shared memory is registered with; None for a local server's own."""

    def check(self, endpoint: str) -> None:
        """Refuse what would give a secret away or what gRPC does not send.

        Raises:
            ValueError: a token over plain text to another machine; a name that is no metadata key.
        """
        if self.token is not None and self.tls is None and not is_loopback(endpoint):
            raise ValueError(
                f"a token to {endpoint} over plain text could be read on the way; give tls=Tls()"
            )
        for name in self.metadata:
            if not name or name != name.lower() or not name.isascii() or " " in name:
                raise ValueError(f"metadata names are lower-case ASCII words, not {name!r}")
            if name == "authorization" and self.token is not None:
                raise ValueError("give token=... or metadata['authorization'], not both")

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """GRPC metadata of every request."""
        pairs = tuple(self.metadata.items())
        return pairs if self.token is None else (*pairs, ("authorization", f"Bearer {self.token}"))

    def admin_pairs(self, endpoint: str) -> tuple[tuple[str, str], ...]:
        """GRPC metadata of requests that a server answers to its admin only.

        Read anew each time: a server that is started again has another key. Like a token, a key
        travels over TLS, or within this machine.
        """
        if self.admin_key_file is None:
            key = local_key(endpoint)
        elif self.tls is None and not is_loopback(endpoint):
            key = None
        else:
            key = read_key_file(Path(self.admin_key_file))
        return () if key is None else ((HEADER, key),)

    @property
    def channel_options(self) -> list[tuple[str, Any]]:
        """Options that a channel needs besides the usual ones."""
        name = None if self.tls is None else self.tls.server_name
        return [] if name is None else [("grpc.ssl_target_name_override", name)]

    def credentials(self) -> Any:
        """Channel credentials, or None for plain text."""
        return None if self.tls is None else self.tls.credentials()
