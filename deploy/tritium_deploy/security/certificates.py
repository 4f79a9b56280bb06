"""A server's certificates: checked before it starts, and what its own clients need to reach it.

Triton reads the files once, when it starts, and answers broken ones with misleading words. So
everything that can be wrong with them is found here first.
"""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tritium_client import Tls
from tritium_deploy.errors import CertificateError
from tritium_deploy.security import ServerTls

EXPIRES_SOON = timedelta(days=14)
OWN_LIFETIME = timedelta(days=3650)
"""Of the certificate that a server's own clients show it: longer than it runs."""


@dataclass(frozen=True)
class CheckedTls:
    """TLS files that a server can be started with."""

    files: ServerTls
    expires: datetime
    """When the certificate does; UTC."""
    client_roots: bytes | None
    """PEM: who vouches for clients, the server's own among them; None: nobody is asked."""
    own: Tls
    """What the server's own clients connect with."""

    def warning(self, now: datetime | None = None) -> str | None:
        """What to say of a certificate that expires soon, or has while the server runs."""
        left = self.expires - (now or _now())
        if left > EXPIRES_SOON:
            return None
        return (
            f"the certificate {self.files.certificate} expires on {_when(self.expires)}, "
            f"in {left.days} days; "
            "replace the files and restart the server: Triton reads them when it starts"
        )


def check_tls(files: ServerTls, now: datetime | None = None) -> CheckedTls:
    """Read certificates and key, and find what is wrong with them.

    Args:
        files: What Triton is to be started with.
        now: The time that they have to be valid at; None for this moment.

    Raises:
        CertificateError: naming file, cause and fix.
    """
    now = now or _now()
    chain = _read_certificates("certificate", files.certificate)
    own = chain[0]
    _require_valid(files.certificate, own, now)
    _require_for_servers(files.certificate, own)
    _require_key_fits(files, own)
    roots = None
    shown: dict[str, Any] = {}
    if files.client_ca is not None:
        authorities = _read_certificates("client CA", files.client_ca)
        for one in authorities:
            _require_valid(files.client_ca, one, now)
        certificate, key = _make_own_certificate(now)
        roots = b"".join(map(_pem, authorities)) + certificate
        shown = {"certificate": certificate, "key": key}
    # Not the authority but this very certificate: our own clients talk to our own server.
    tls = Tls(ca=_pem(own), server_name=_a_name(files.certificate, own), **shown)
    return CheckedTls(files, own.not_valid_after_utc, roots, tls)


def others_may_read(path: Path) -> bool:
    """Whether a secret's file can be read by more users than it should.

    Its owner alone may, or, where root owns it, a group: so Kubernetes lays secrets before a
    process that is not root. Source: PostgreSQL's documentation of `ssl_key_file`.
    """
    status = path.stat()
    allowed = 0o640 if status.st_uid == 0 and os.geteuid() != 0 else 0o600
    return bool(stat.S_IMODE(status.st_mode) & ~allowed & 0o077)


def _read(what: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CertificateError(f"{what} {path} does not exist") from error
    except OSError as error:
        raise CertificateError(f"{what} {path} cannot be read ({error.strerror})") from error


def _read_certificates(what: str, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(what, path))
    except ValueError as error:
        raise CertificateError(f"{what} {path} holds no certificate in PEM form") from error


def _require_valid(path: Path, one: x509.Certificate, now: datetime) -> None:
    subject = one.subject.rfc4514_string() or "without a subject"
    if now > one.not_valid_after_utc:
        raise CertificateError(
            f"the certificate {path} ({subject}) expired on {_when(one.not_valid_after_utc)}; "
            "replace it with a new one"
        )
    if now < one.not_valid_before_utc:
        raise CertificateError(
            f"the certificate {path} ({subject}) is not valid before "
            f"{_when(one.not_valid_before_utc)}; is this machine's clock right?"
        )


def _require_for_servers(path: Path, one: x509.Certificate) -> None:
    try:
        usage = one.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    allowed = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
    if not set(allowed) & set(usage):
        raise CertificateError(
            f"the certificate {path} is not for servers (no serverAuth in its extended key usage)"
        )


def _require_key_fits(files: ServerTls, one: x509.Certificate) -> None:
    content = _read("key", files.key)
    if others_may_read(files.key):
        raise CertificateError(f"key {files.key} can be read by others; chmod 600 {files.key}")
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except TypeError as error:
        raise CertificateError(
            f"key {files.key} has a passphrase, and Triton cannot ask for it; "
            f"decrypt it: openssl pkey -in {files.key}"
        ) from error
    except ValueError as error:
        raise CertificateError(f"key {files.key} holds no private key in PEM form") from error
    if _spki(key.public_key()) != _spki(one.public_key()):
        raise CertificateError(
            f"key {files.key} does not belong to the first certificate of {files.certificate}; "
            "the server's own certificate has to come first in the file"
        )


def _a_name(path: Path, one: x509.Certificate) -> str:
    """A name that the certificate is good for; clients find none in the subject."""
    try:
        names = one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    hosts: Sequence[str] = names.get_values_for_type(x509.DNSName)
    if hosts:
        return hosts[0].replace("*", "tritium")
    addresses: Sequence[ipaddress.IPv4Address | ipaddress.IPv6Address] = [
        address
        for address in names.get_values_for_type(x509.IPAddress)
        if isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address)
    ]
    if addresses:
        return str(addresses[0])
    raise CertificateError(
        f"the certificate {path} names no host that clients could call it by (subjectAltName)"
    )


def _make_own_certificate(now: datetime) -> tuple[bytes, bytes]:
    """A certificate and its key, in PEM, for a server's own clients; the key stays in memory.

    It vouches for itself alone: it is no authority.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tritium serve, its own clients")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + OWN_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return _pem(certificate), private


def _pem(one: x509.Certificate) -> bytes:
    return one.public_bytes(serialization.Encoding.PEM)


def _spki(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def _when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _now() -> datetime:
    return datetime.now(timezone.utc)
