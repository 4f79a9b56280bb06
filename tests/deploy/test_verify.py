"""`tritium verify`: a repository against what was published, with no server anywhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.deploy.tiny_repository import TinyApp, publish, publish_candidate
from tests.support.command_line import tritium_inside

from tritium_builders.aliases import point_aliases
from tritium_client import contract
from tritium_deploy.errors import RepositoryError
from tritium_deploy.verify import verify_repository


def component(repository: Path, role: str = "fusion_head") -> Path:
    """The folder of a component."""
    return next(repository.glob(f"tiny_{role}_[0-9a-f]*"))


def flip_a_byte(repository: Path) -> None:
    path = component(repository) / "1" / "model.py"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def cut_off(repository: Path) -> None:
    path = component(repository) / "1" / "model.py"
    path.write_bytes(path.read_bytes()[:-10])


def leave_a_file_out(repository: Path) -> None:
    (component(repository) / "1" / "model.py").unlink()


def plant_a_version(repository: Path) -> None:
    folder = component(repository)
    shutil.copytree(folder / "1", folder / "2")


def leave_the_release_out(repository: Path) -> None:
    (repository / "tiny_classify" / "1" / "release.json").write_text("{}")


def leave_a_graph_out(repository: Path) -> None:
    shutil.rmtree(repository / "tiny_classify_image_r1")


DAMAGE = [
    (flip_a_byte, r"model\.py differs from what was published \(SHA-256 "),
    (cut_off, r"model\.py has \d+ bytes and was published with \d+; build the release again"),
    (leave_a_file_out, r"model\.py is missing \(No such file"),
    (plant_a_version, r"/2/.* is not of the release; remove it"),
    (leave_the_release_out, r"release\.json: .*; build the release again"),
    (leave_a_graph_out, r"tiny_classify_image_r1/config\.pbtxt cannot be read"),
]


@pytest.mark.parametrize(
    ("damage", "told"), DAMAGE, ids=lambda given: getattr(given, "__name__", "")
)
def test_damage_is_named_by_its_file(
    damage: Callable[[Path], None], told: str, repository: Path
) -> None:
    publish(repository)
    verify_repository(repository)
    damage(repository)
    with pytest.raises(RepositoryError, match=told):
        verify_repository(repository)


def test_it_says_what_it_verified(repository: Path) -> None:
    release = publish(repository)
    publish_candidate(repository)
    files = sum(len(one.files) for one in release.components.values())
    seen: list[str] = []
    (one,) = verify_repository(repository, on_file=lambda path, _size: seen.append(path))
    assert (one.app, one.number, one.live, one.files) == ("tiny", 1, True, files)
    assert len(seen) == len(set(seen)) == files
    assert all((repository / path).stat().st_size for path in seen)
    both = verify_repository(repository, every_release=True)
    assert [(one.number, one.live) for one in both] == [(1, True), (2, False)]


def test_a_candidate_with_a_share_is_verified_like_the_live_release(repository: Path) -> None:
    live = publish(repository)
    publish_candidate(repository)
    point_aliases(repository, live, contract.Rollout(candidate=2, canary_percent=5))
    found = verify_repository(repository)
    assert [(one.number, one.live) for one in found] == [(1, True), (2, False)]


def test_a_release_that_no_server_starts_with_may_be_damaged(repository: Path) -> None:
    publish(repository)
    publish_candidate(repository)
    shutil.rmtree(repository / "tiny_classify_r2")
    verify_repository(repository)
    with pytest.raises(RepositoryError, match=r"tiny_classify_r2/config\.pbtxt cannot be read"):
        verify_repository(repository, every_release=True)


def test_other_apps_are_left_alone(repository: Path) -> None:
    publish(repository)
    publish(repository, TinyApp(app="other"))
    flip_a_byte(repository)
    assert [one.app for one in verify_repository(repository, ["other"])] == ["other"]


@pytest.mark.parametrize(
    ("apps", "told"),
    [
        (["missing"], r"no app missing in .*; it has: tiny"),
        (["waiting"], r"app waiting has no live release in .*; promote one, or verify --all"),
    ],
)
def test_an_app_that_cannot_be_served_is_refused(
    apps: list[str], told: str, repository: Path
) -> None:
    publish(repository)
    if apps == ["waiting"]:
        publish(repository, TinyApp(app="waiting"), live=False)
    with pytest.raises(RepositoryError, match=told):
        verify_repository(repository, apps)


def test_a_folder_that_is_no_repository_is_refused(repository: Path) -> None:
    with pytest.raises(RepositoryError, match="it has none; run `tritium build`"):
        verify_repository(repository)
    with pytest.raises(RepositoryError, match="does not exist"):
        verify_repository(repository / "missing")


def test_the_command_ends_as_an_init_container_needs_it(repository: Path) -> None:
    publish(repository)
    good = tritium_inside("verify", "--repository", str(repository))
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.startswith("tiny release 1 (live): 15 files, ")
    flip_a_byte(repository)
    bad = tritium_inside("verify", "--repository", str(repository))
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr.startswith("error: app tiny, release 1: ")
    assert len(bad.stderr.splitlines()) == 1
    told = json.loads(tritium_inside("verify", "--repository", str(repository), "--json").stdout)
    assert (told["event"], told["kind"]) == ("error", "RepositoryError")
