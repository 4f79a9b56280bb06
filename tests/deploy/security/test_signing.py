"""Signed releases: made, checked at every load, and refused when anything about them changed."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.deploy.calls import wait_until
from tests.deploy.rollout.conftest import QUICK, answered_by
from tests.deploy.tiny_repository import TinyApp, publish, publish_candidate

from tritium_builders.aliases import point_aliases
from tritium_builders.errors import PublishError, SignatureError
from tritium_builders.release import load_release, release_folder
from tritium_builders.signing import (
    SIGNATURE_FILE,
    TrustedKeys,
    key_id,
    make_keys,
    sign_release,
    verify_release,
)
from tritium_deploy import Ports, Security, Server, serve
from tritium_deploy.control import ModelControl
from tritium_deploy.errors import CandidateError, RepositoryError, UnsignedError
from tritium_deploy.live import AppRelease, read_app_release
from tritium_deploy.loading import load_beside, point
from tritium_deploy.rollout import Rollout
from tritium_deploy.served import entry_point_configs

PROGRAM = Path(sys.executable).parent / "tritium"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key; beside it lies the public one."""
    path = tmp_path / "signing.key"
    make_keys(path)
    return path


def public(key: Path) -> Path:
    return key.with_name(f"{key.name}.pub")


def trusted(*keys: Path) -> TrustedKeys:
    return TrustedKeys.read([public(key) for key in keys])


def signed(repository: Path, key: Path, tiny: TinyApp | None = None) -> Path:
    """Publish and sign a release; gives its folder."""
    release = publish(repository, tiny)
    sign_release(repository, release.app, release.number, key)
    return release_folder(repository, release.app, release.number)


def verify(repository: Path, folder: Path, *keys: Path) -> None:
    verify_release(repository, load_release(folder), trusted(*keys))


def test_keys_are_drawn_once_and_kept_secret(key: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "PRIVATE" not in public(key).read_text()
    with pytest.raises(SignatureError, match="is there already"):
        make_keys(key)
    key.unlink()
    with pytest.raises(SignatureError, match=r"\.pub is there already"):
        make_keys(key)
    assert not key.exists(), "a private key without its public one"


def test_openssl_reads_them(key: Path) -> None:
    done = subprocess.run(
        ["openssl", "pkey", "-in", key, "-noout", "-text"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ED25519" in done.stdout


def test_what_was_signed_is_accepted(repository: Path, key: Path, tmp_path: Path) -> None:
    folder = signed(repository, key)
    verify(repository, folder, key)
    again = tmp_path / "elsewhere"
    shutil.copytree(repository, again)
    verify(again, again / folder.relative_to(repository), key)  # wherever it lies


CHANGES: dict[str, Callable[[Path], str]] = {}


def change(act: Callable[[Path], str]) -> Callable[[Path], str]:
    """One thing that is done to a repository; it returns words of the refusal."""
    CHANGES[act.__name__] = act
    return act


def component(repository: Path) -> Path:
    return next(repository.glob("tiny_text_encoder_*"))


@change
def a_servable_s_code(repository: Path) -> str:
    path = component(repository) / "1" / "model.py"
    path.write_text(path.read_text() + "\n# and more\n")
    return "model.py differs from what was signed"


@change
def compiled_code_is_added(repository: Path) -> str:
    (component(repository) / "1" / "__pycache__" / "model.cpython-399.pyc").write_bytes(b"\0")
    return "model.cpython-399.pyc is there, and was not signed"


@change
def a_component_s_config(repository: Path) -> str:
    path = component(repository) / "config.pbtxt"
    path.write_text(path.read_text() + "# nothing\n")
    return "config.pbtxt differs"


@change
def an_ensemble_s_graph(repository: Path) -> str:
    path = repository / "tiny_classify_r1" / "config.pbtxt"
    path.write_text(path.read_text().replace("cat", "dog"))
    return "tiny_classify_r1/config.pbtxt differs"


def samples(repository: Path) -> list[Path]:
    folder = repository / "tiny_classify" / "1"
    known = ("release.json", SIGNATURE_FILE, ".keep")
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in known]


@change
def a_golden_sample(repository: Path) -> str:
    path = samples(repository)[0]
    path.write_bytes(path.read_bytes() + b" ")
    return "differs"


@change
def a_file_is_gone(repository: Path) -> str:
    samples(repository)[0].unlink()
    return "was signed, and is not there"


@change
def release_json(repository: Path) -> str:
    path = repository / "tiny_classify/1/release.json"
    path.write_text(path.read_text().replace('"fp32"', '"bf16"'))
    return "release.json differs"


@change
def the_signature_s_list(repository: Path) -> str:
    path = repository / "tiny_classify/1" / SIGNATURE_FILE
    record = json.loads(path.read_text())
    record["files"].popitem()
    path.write_text(json.dumps(record))
    return "was changed after it was signed"


@change
def the_signature_is_no_signature(repository: Path) -> str:
    (repository / "tiny_classify/1" / SIGNATURE_FILE).write_text("{}")
    return "is no signature"


@change
def the_signature_is_gone(repository: Path) -> str:
    (repository / "tiny_classify/1" / SIGNATURE_FILE).unlink()
    return "is not signed; sign it: tritium sign tiny 1 --key KEY"


@change
def a_link_to_somewhere_else(repository: Path) -> str:
    (component(repository) / "2").symlink_to("/etc")
    return "cannot be read"


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_is_changed_is_found_and_named(repository: Path, key: Path, what: str) -> None:
    folder = signed(repository, key)
    words = CHANGES[what](repository)
    with pytest.raises(SignatureError) as caught:
        verify(repository, folder, key)
    assert words in str(caught.value)
    with pytest.raises(UnsignedError):
        serve(repository, ports=Ports.free(), security=Security(require_signed=(public(key),)))


def test_another_release_s_signature_is_none(repository: Path, key: Path) -> None:
    first = signed(repository, key)
    second = signed(repository, key, TinyApp(number=2, bias=0.6))
    shutil.copyfile(first / SIGNATURE_FILE, second / SIGNATURE_FILE)
    with pytest.raises(SignatureError, match="has the signature of tiny release 1"):
        verify(repository, second, key)


def test_keys_are_replaced_one_by_one(repository: Path, key: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.key"
    make_keys(new)
    folder = signed(repository, key)
    with pytest.raises(SignatureError, match=rf"key {key_id(public(key))}, which is not trusted"):
        verify(repository, folder, new)
    verify(repository, folder, new, key)
    sign_release(repository, "tiny", 1, new)
    verify(repository, folder, new)


def test_what_was_changed_is_not_signed(repository: Path, key: Path) -> None:
    publish(repository)
    a_servable_s_code(repository)
    with pytest.raises(SignatureError, match=r"is not what release\.json says"):
        sign_release(repository, "tiny", 1, key)
    with pytest.raises(PublishError, match=r"release\.json"):
        sign_release(repository, "tiny", 7, key)


def test_what_is_no_key(repository: Path, tmp_path: Path) -> None:
    publish(repository)
    rsa = tmp_path / "rsa.key"
    subprocess.run(["openssl", "genrsa", "-out", rsa, "2048"], check=True, capture_output=True)
    for path, words in ((rsa, "is no Ed25519 key"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(SignatureError, match=words):
            sign_release(repository, "tiny", 1, path)
        with pytest.raises(SignatureError):
            TrustedKeys.read([path])
    assert TrustedKeys.parse("nonsense") == TrustedKeys(frozenset()), "trusts nobody"


def test_by_the_command_line(repository: Path, tmp_path: Path) -> None:
    publish(repository)

    def tritium(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROGRAM, *words], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
        )

    assert tritium("keygen", "my.key").returncode == 0
    assert "is there already" in tritium("keygen", "my.key").stderr
    where = ("--repository", str(repository))
    done = tritium("sign", "tiny", "1", "--key", "my.key", *where)
    assert done.returncode == 0, done.stderr
    assert "signed tiny release 1" in done.stdout
    verify(repository, release_folder(repository, "tiny", 1), tmp_path / "my.key")
    assert tritium("sign", "tiny", "9", "--key", "my.key", *where).returncode == 1


@pytest.fixture
def demanding(repository: Path, key: Path, start: Callable[..., Server]) -> Server:
    """A server that wants signatures, with a signed release."""
    signed(repository, key, TinyApp(labelled=20))
    return start(security=Security(require_signed=(public(key),)))


@pytest.mark.e2e
def test_rollouts_refuse_what_the_server_does_not_want(
    demanding: Server, repository: Path, key: Path
) -> None:
    publish_candidate(repository, TinyApp(number=2, bias=0.6, labelled=20))
    with Rollout(repository, [demanding.grpc_url], settings=QUICK) as rollout:
        for verb in (rollout.stage, rollout.promote):
            with pytest.raises(CandidateError, match="tiny release 2 is not signed"):
                verb("tiny", 2)
        with pytest.raises(CandidateError, match="is not signed"):
            rollout.canary("tiny", 2, 50)
        assert answered_by(demanding) == {"1"}
        sign_release(repository, "tiny", 2, key)
        rollout.promote("tiny", 2)
        assert answered_by(demanding) == {"2"}
        assert demanding.ready


@pytest.mark.e2e
def test_a_server_does_not_follow_the_repository_to_it(demanding: Server, repository: Path) -> None:
    """Whoever can write the repository makes an unsigned release live there."""
    point_aliases(repository, publish_candidate(repository, TinyApp(number=2, bias=0.6)))
    assert not wait_until(lambda: answered_by(demanding) != {"1"}, 6)
    assert demanding.ready
    with pytest.raises(RepositoryError, match="tiny release 2 is not signed"):
        serve(
            repository,
            ports=Ports.free(),
            security=Security(require_signed=(next(repository.parent.glob("*.pub")),)),
        )


@pytest.mark.e2e
def test_one_that_was_loaded_past_the_tools_makes_the_app_fail(
    demanding: Server, repository: Path
) -> None:
    """Triton itself loads whatever it is told to, by whoever has the admin key."""
    publish_candidate(repository, TinyApp(number=2, bias=0.6))
    release = read_app_release(repository, "tiny", 2)
    control = ModelControl(demanding.grpc_url)
    load_beside(control, release, 30)

    def make_live(one: AppRelease) -> None:
        configs = entry_point_configs(repository, one, None, {}, response_cache=False)
        point(control, configs, 30)

    make_live(release)
    assert wait_until(lambda: not demanding.ready, 10)
    (status,) = demanding.apps
    assert status.state == "failed"
    assert "release 2 is live, and tiny release 2 is not signed" in status.reason
    make_live(read_app_release(repository, "tiny", 1))
    control.close()
    assert wait_until(lambda: demanding.ready, 20), "it answers with what is signed again"
