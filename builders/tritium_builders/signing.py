"""Signed releases: whoever serves one knows who built it, and that nobody changed it since.

A signature is the file `release.json.sig` beside `release.json`. It lists every file that Triton
or `tritium serve` reads of the release, with its SHA-256: those of its components, of its
ensembles, and the release's own folder. The list is signed with Ed25519 (RFC 8032), so a file that
was changed, taken away or added is found, and named.

What it does not say is which release is live: that changes at every promote.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import ValidationError

from tritium_builders.bundle import file_entry
from tritium_builders.durable import replace_file
from tritium_builders.errors import SignatureError
from tritium_builders.release import RELEASE_FILE, Record, Release, read_release, release_folder

SIGNATURE_FILE = f"{RELEASE_FILE}.sig"
PREAMBLE = b"tritium release signature 1\n"
"""Before what is signed, so that no other use of the key can be taken for one."""


class Signature(Record):
    """The content of release.json.sig."""

    schema_version: Literal[1] = 1
    app: str
    number: int
    files: dict[str, str]
    """Path within the repository -> SHA-256, of everything that the release consists of."""
    key: str
    """Names the public key; see `key_id`."""
    signature: str
    """Base64, of `signed_bytes`."""

    @property
    def signed_bytes(self) -> bytes:
        """What the key signs: everything but the signature itself, as canonical JSON."""
        content = self.model_dump(exclude={"signature"})
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return PREAMBLE + text.encode()


@dataclass(frozen=True)
class TrustedKeys:
    """Public keys, any of which may have signed a release: while a key is replaced there are two.

    Args:
        raw: 32 bytes each.
    """

    raw: frozenset[bytes]

    @classmethod
    def read(cls, paths: Sequence[Path]) -> TrustedKeys:
        """Read public keys in PEM.

        Raises:
            SignatureError: naming the file that holds none.
        """
        return cls(frozenset(_raw(_read_public_key(path)) for path in paths))

    @classmethod
    def parse(cls, text: str) -> TrustedKeys | None:
        """Read what `text` wrote; None of an empty one. What cannot be read trusts nobody."""
        if not text:
            return None
        try:
            return cls(frozenset(base64.b64decode(one, validate=True) for one in json.loads(text)))
        except (ValueError, TypeError):
            return cls(frozenset())

    @property
    def text(self) -> str:
        """As a parameter of an entry point says it: a JSON list of base64."""
        return json.dumps(sorted(base64.b64encode(one).decode() for one in self.raw))

    def named(self, key: str) -> Ed25519PublicKey | None:
        """The key of this id, if it is among them."""
        found = next((one for one in self.raw if _id_of(one) == key and len(one) == 32), None)
        return None if found is None else Ed25519PublicKey.from_public_bytes(found)

    def __str__(self) -> str:
        return ", ".join(sorted(map(_id_of, self.raw))) or "none"


def make_keys(path: Path) -> tuple[Path, str]:
    """Draw a pair of keys.

    Args:
        path: Gets the private key, PEM, mode 0600; with `.pub` behind it the public key.

    Returns:
        Where the public key is, and its id.

    Raises:
        SignatureError: there is a file already, or it cannot be written.
    """
    private = Ed25519PrivateKey.generate()
    public_path = path.with_name(f"{path.name}.pub")
    secret = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    if public_path.exists():  # or a private key would be left without it
        raise SignatureError(f"{public_path} is there already, and is not overwritten")
    for target, content, mode in ((path, secret, 0o600), (public_path, public, 0o644)):
        try:
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError as error:
            raise SignatureError(f"{target} is there already, and is not overwritten") from error
        except OSError as error:
            raise SignatureError(f"{target} cannot be written ({error.strerror})") from error
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    return public_path, _id_of(_raw(private.public_key()))


def sign_release(repository: Path, app: str, number: int, key: Path) -> Signature:
    """Sign a release, in place of a signature that it may have.

    Its components are compared with release.json first: what was changed is not signed.

    Args:
        repository: A Triton model repository.
        app: Whose release.
        number: Which.
        key: The private key, PEM.

    Raises:
        PublishError: there is no such release.
        SignatureError: the key cannot be used, or the release is not as it was published.
        OSError: the signature cannot be written.
    """
    private = read_private_key(key)
    release = read_release(repository, app, number)
    files = _hashes(repository, release)
    _require_as_published(release, files)
    unsigned = Signature(
        app=release.app,
        number=release.number,
        files=files,
        key=_id_of(_raw(private.public_key())),
        signature="",
    )
    made = base64.b64encode(private.sign(unsigned.signed_bytes)).decode()
    signature = unsigned.model_copy(update={"signature": made})
    replace_file(_signature_path(repository, release), signature.model_dump_json(indent=2) + "\n")
    return signature


def verify_release(repository: Path, release: Release, trusted: TrustedKeys) -> None:
    """See that a release is what a trusted key signed; reads every file of it.

    Raises:
        SignatureError: it is not, and why.
    """
    name = f"{release.app} release {release.number}"
    signature = _read_signature(repository, release, name)
    public = trusted.named(signature.key)
    if public is None:
        raise SignatureError(
            f"{name} is signed with key {signature.key}, which is not trusted here "
            f"(trusted: {trusted})"
        )
    try:
        public.verify(base64.b64decode(signature.signature), signature.signed_bytes)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError(
            f"{name}: {SIGNATURE_FILE} was changed after it was signed; build the release again"
        ) from error
    if (signature.app, signature.number) != (release.app, release.number):
        raise SignatureError(
            f"{name} has the signature of {signature.app} release {signature.number}"
        )
    found = _hashes(repository, release)
    for path in sorted(found.keys() | signature.files.keys()):
        if found.get(path) == signature.files.get(path):
            continue
        what = "differs from what was signed"
        if path not in found:
            what = "was signed, and is not there"
        elif path not in signature.files:
            what = "is there, and was not signed"
        raise SignatureError(f"{name}: {path} {what}; build the release again")


def is_signed(repository: Path, release: Release) -> bool:
    """Whether a release has a signature, whoever made it and whatever it is worth."""
    return _signature_path(repository, release).is_file()


def key_id(path: Path) -> str:
    """What a public key is called: the first 16 hex digits of its SHA-256.

    Raises:
        SignatureError: the file holds no Ed25519 public key.
    """
    return _id_of(_raw(_read_public_key(path)))


def _hashes(repository: Path, release: Release) -> dict[str, str]:
    """Every file that a release consists of: path within the repository -> SHA-256."""
    folders = [
        release_folder(repository, release.app, release.number),
        *(repository / release.graph(given) for given in release.entry_points),
        *(repository / component.model for component in release.components.values()),
    ]
    files = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.name == SIGNATURE_FILE and path.parent == folders[0]:
                continue
            if path.is_file() or path.is_symlink():
                files[path.relative_to(repository).as_posix()] = _sha256(path)
    return files


def _sha256(path: Path) -> str:
    try:
        return file_entry(path).sha256
    except OSError as error:
        raise SignatureError(f"{path} cannot be read ({error.strerror})") from error


def _require_as_published(release: Release, files: dict[str, str]) -> None:
    for component in release.components.values():
        for name, published in component.files.items():
            path = f"{component.model}/{name}"
            if files.get(path) != published.sha256:
                raise SignatureError(
                    f"{path} is not what release.json says; build the release again, nothing was "
                    "signed"
                )


def _signature_path(repository: Path, release: Release) -> Path:
    return release_folder(repository, release.app, release.number) / SIGNATURE_FILE


def _read_signature(repository: Path, release: Release, name: str) -> Signature:
    path = _signature_path(repository, release)
    try:
        return Signature.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise SignatureError(
            f"{name} is not signed; sign it: tritium sign {release.app} {release.number} --key KEY"
        ) from error
    except OSError as error:
        raise SignatureError(f"{path} cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise SignatureError(f"{path} is no signature; sign the release again") from error


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """Read the key that signs.

    Raises:
        SignatureError: the file holds no Ed25519 private key, or one with a passphrase.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise SignatureError(f"key {path} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError) as error:
        raise SignatureError(
            f"key {path} holds no private key in PEM form without a passphrase"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureError(f"key {path} is no Ed25519 key; `tritium keygen` makes one")
    return key


def _read_public_key(path: Path) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise SignatureError(f"public key {path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise SignatureError(f"{path} holds no public key in PEM form") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SignatureError(f"{path} is no Ed25519 key; `tritium keygen` makes one")
    return key


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes_raw()


def _id_of(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:16]
