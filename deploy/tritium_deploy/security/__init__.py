"""Who may reach a server, who may change it, and what it may load: what is asked for.

serve("model_repository", security=Security(tls=ServerTls(cert, key), require_signed=(public,)))

options.py (the command line) -> here (what is asked for) -> protection.py (certificates.py checked,
admin_key.py drawn) -> access.py (what our own clients bring).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ServerTls:
    """TLS of a server's gRPC port; with `client_ca`, mutual TLS. PEM files all."""

    certificate: Path
    """The server's own certificate first, then those between it and its authority."""
    key: Path
    """Its private key, without a passphrase."""
    client_ca: Path | None = None
    """Authorities that vouch for clients; None: clients need no certificate."""


@dataclass(frozen=True)
class Security:
    """What a server is told; the defaults suit a server on loopback."""

    tls: ServerTls | None = None
    """Encrypts gRPC; None for plain text. Metrics and readiness stay plain."""
    admin_key_file: Path | None = None
    """Keeps the admin key; None for one that is drawn at each start, which local clients of the
    same user find by themselves."""
    open_admin: bool = False
    """Ask for no admin key: whoever reaches gRPC may change what is served."""
    require_signed: tuple[Path, ...] = ()
    """Public keys in PEM, any of which must have signed a release; empty: unsigned ones, too."""
