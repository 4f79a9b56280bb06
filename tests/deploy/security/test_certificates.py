"""What is wrong with a server's certificates is said before it starts."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from tests.support.certificates import CLIENT, DAY, Authority

from tritium_deploy import ServerTls
from tritium_deploy.errors import CertificateError
from tritium_deploy.security.certificates import check_tls


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def refused(certificate: Path, key: Path, client_ca: Path | None = None) -> str:
    with pytest.raises(CertificateError) as caught:
        check_tls(ServerTls(certificate, key, client_ca))
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_what_is_not_there_or_nothing_of_the_kind(authority: Authority, tmp_path: Path) -> None:
    good = authority.issue("server")
    none, empty = tmp_path / "none.pem", tmp_path / "empty.pem"
    empty.touch(0o600)
    assert f"certificate {none} does not exist" in refused(none, good.key)
    assert f"key {none} does not exist" in refused(good.certificate, none)
    assert "holds no certificate in PEM form" in refused(empty, good.key)
    assert "holds no certificate in PEM form" in refused(good.key, good.key)
    assert "holds no private key in PEM form" in refused(good.certificate, empty)
    assert f"client CA {none} does not exist" in refused(good.certificate, good.key, none)
    assert f"certificate {tmp_path} cannot be read (Is a directory)" in refused(tmp_path, good.key)


def test_times(authority: Authority) -> None:
    over = authority.issue("over", since=-2 * DAY, until=-DAY)
    early = authority.issue("early", since=DAY)
    assert "expired on" in refused(over.certificate, over.key)
    assert "replace it" in refused(over.certificate, over.key)
    assert "is not valid before" in refused(early.certificate, early.key)
    good = authority.issue("good")
    assert "expired on" in refused(good.certificate, good.key, over.certificate)


def test_the_key(authority: Authority, tmp_path: Path) -> None:
    one, other = authority.issue("one"), authority.issue("other")
    assert "does not belong to the first certificate" in refused(one.certificate, other.key)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(authority.ca.read_bytes() + one.certificate.read_bytes())
    assert "has to come first" in refused(chain, one.key)
    one.key.chmod(0o644)
    assert f"can be read by others; chmod 600 {one.key}" in refused(one.certificate, one.key)
    key = serialization.load_pem_private_key(other.key.read_bytes(), None)
    other.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    assert "has a passphrase" in refused(other.certificate, other.key)


def test_what_it_is_for(authority: Authority) -> None:
    client = authority.issue("client", usage=CLIENT)
    assert "is not for servers" in refused(client.certificate, client.key)
    nameless = authority.issue("nameless", hosts=())
    assert "names no host" in refused(nameless.certificate, nameless.key)


@pytest.mark.parametrize(("days", "warned"), [(13, True), (15, False)])
def test_a_certificate_that_expires_soon_is_told_of(
    authority: Authority, days: int, warned: bool
) -> None:
    issued = authority.issue("server", until=days * DAY)
    checked = check_tls(ServerTls(issued.certificate, issued.key))
    text = checked.warning()
    assert (text is not None) == warned
    if text is not None:
        assert "in 12 days" in text
        assert "restart the server" in text


def test_the_expiry_is_a_value(authority: Authority) -> None:
    issued = authority.issue("server", until=20 * DAY)
    expected = datetime.now(timezone.utc) + timedelta(days=20)
    expires = check_tls(ServerTls(issued.certificate, issued.key)).expires
    assert abs(expires - expected) < timedelta(minutes=1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root owns what it shows to a group")
def test_a_secret_that_root_shows_to_a_group_is_for_others_than_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tritium_deploy.security.certificates import others_may_read

    path = tmp_path / "secret"
    path.touch(0o640)
    path.chmod(0o640)
    assert others_may_read(path)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert not others_may_read(path), "so Kubernetes lays it before a pod's user"
    path.chmod(0o644)
    assert others_may_read(path)
