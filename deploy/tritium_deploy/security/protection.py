"""What a server's security comes to: files that were read and checked, a key that was drawn."""

from __future__ import annotations

from datetime import datetime

from tritium_builders.signing import TrustedKeys
from tritium_client._admin_key import is_loopback
from tritium_deploy.security import Security
from tritium_deploy.security.access import Access
from tritium_deploy.security.admin_key import AdminKey
from tritium_deploy.security.certificates import CheckedTls, check_tls


class Protection:
    """What one server is protected with.

    Args:
        security: What was asked for.
        host: The address that gRPC binds.
        port: Its port.

    Raises:
        CertificateError: TLS cannot be started like this.
        AdminKeyError: the admin key's file cannot be read or written.
        SignatureError: a public key cannot be read.
    """

    def __init__(self, security: Security, host: str, port: int) -> None:
        self.tls: CheckedTls | None = None if security.tls is None else check_tls(security.tls)
        self.trusted: TrustedKeys | None = None
        if security.require_signed:
            self.trusted = TrustedKeys.read(security.require_signed)
        self.admin = None if security.open_admin else AdminKey(port, security.admin_key_file)
        self._is_local = is_loopback(f"{host}:{port}")

    @property
    def access(self) -> Access:
        """What the server's own clients bring."""
        return Access(
            None if self.tls is None else self.tls.own,
            None if self.admin is None else self.admin.value,
        )

    @property
    def certificate_expires(self) -> datetime | None:
        """When the server's certificate does, UTC; None without TLS."""
        return None if self.tls is None else self.tls.expires

    @property
    def warnings(self) -> list[str]:
        """What whoever starts the server should know."""
        found = []
        if self.tls is not None and (soon := self.tls.warning()) is not None:
            found.append(soon)
        if self.admin is None and not self._is_local:
            found.append(
                "model control is open to whoever reaches gRPC: they can run code here; "
                "without --open-admin it asks for a key"
            )
        return found
