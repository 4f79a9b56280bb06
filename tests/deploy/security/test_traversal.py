"""No name of an app or a release leads out of a repository, whoever is given it.

Every public way that takes one is tried with every hostile name: functions, classes, the SDK, and
the command line. A folder beside the repository holds what they would find if one of them followed.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import ValidationError
from tests.deploy.tiny_repository import publish, tiny_release

from tritium_builders import aliases, history, pending, release, signing
from tritium_builders import publish as publishing
from tritium_builders.bundle_schema import BundleManifest
from tritium_builders.errors import TritiumError
from tritium_builders.names import STATE_FOLDER
from tritium_builders.training.recipe.recipe import Recipe
from tritium_client import AsyncClient, Client, MockTransport
from tritium_client.cli import build_app
from tritium_deploy import Ports, serve
from tritium_deploy.live import read_app_release
from tritium_deploy.rollout import Rollout, lock

HOSTILE = ("../outside", "..", ".", "", "/etc", "a/b", "a\\b", "a\0b", "tiny/../../outside",
           "%2e%2e", "tiny\n", "Tiny", "~root", "a" * 64)  # fmt: skip
NUMBERS: tuple[Any, ...] = ("../1", "..", "1/../..", 0, -1, "1")

Way = Callable[[Path, str], object]
ENTRY = history.HistoryEntry(when="", who="", action="stage", release=1)
NOTE = pending.PendingSwitch(former=1, release=2, action="promote", who="", when="")


def enter_lock(repository: Path, app: str) -> object:
    with lock.AppLock(repository, app, "nothing"):
        return None


def rollout(repository: Path, verb: str, app: str, *arguments: Any) -> object:
    with Rollout(repository, ["127.0.0.1:1"]) as one:
        return getattr(one, verb)(app, *arguments)


def ask(client: Client, app: str) -> object:
    with client:
        return client.classify(text="x", app=app)


WAYS: dict[str, Way] = {
    "release_folder": lambda where, app: release.release_folder(where, app, 1),
    "app_folder": release.app_folder,
    "app_verb": release.app_verb,
    "list_releases": release.list_releases,
    "live_release": release.live_release,
    "read_release": lambda where, app: release.read_release(where, app, 1),
    "live_rollout": aliases.live_rollout,
    "find_release": publishing.find_release,
    "history_path": history.history_path,
    "read_history": history.read_history,
    "numbers_in_history": history.numbers_in_history,
    "append_history": lambda where, app: history.append_history(where, app, ENTRY),
    "pending_path": pending.pending_path,
    "read_pending": pending.read_pending,
    "write_pending": lambda where, app: pending.write_pending(where, app, NOTE),
    "remove_pending": pending.remove_pending,
    "lock_path": lock.lock_path,
    "read_owner": lock.read_owner,
    "is_locked": lock.is_locked,
    "AppLock": enter_lock,
    "sign_release": lambda where, app: signing.sign_release(where, app, 1, where.parent / "key"),
    "read_app_release": lambda where, app: read_app_release(where, app, 1),
    "serve": lambda where, app: serve(where, ports=Ports.free(), apps=[app]),
    "Rollout.status": lambda where, app: rollout(where, "status", app),
    "Rollout.stage": lambda where, app: rollout(where, "stage", app, 1),
    "Rollout.canary": lambda where, app: rollout(where, "canary", app, 1, 5),
    "Rollout.shadow": lambda where, app: rollout(where, "shadow", app, 1, 5),
    "Rollout.promote": lambda where, app: rollout(where, "promote", app, 1),
    "Rollout.rollback": lambda where, app: rollout(where, "rollback", app),
    "Rollout.retire": lambda where, app: rollout(where, "retire", app, 1),
    "Rollout.gc": lambda where, app: rollout(where, "gc", app),
    "Rollout.watch": lambda where, app: rollout(where, "watch", app, 0.1),
    "Client": lambda _, app: Client(app=app),
    "AsyncClient": lambda _, app: AsyncClient(app=app),
    "Client.classify": lambda _, app: ask(Client("127.0.0.1:1"), app),
    "a mocked client": lambda _, app: ask(Client(transport=MockTransport({})), app),
    "Release": lambda _, app: tiny_release().model_validate(
        tiny_release().model_dump() | {"app": app}
    ),
    "BundleManifest": lambda _, app: BundleManifest.model_validate({"app": app}),
    "Recipe": lambda _, app: Recipe.model_validate({"app": app}),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A repository, and beside it another one that nobody was given."""
    repository = tmp_path / "repository"
    repository.mkdir()
    publish(repository)
    (repository / STATE_FOLDER).mkdir(exist_ok=True)
    shutil.copytree(repository, tmp_path / "outside")
    for path in (tmp_path / "outside_classify", tmp_path / "outside_embed_text"):
        shutil.copytree(repository / "tiny_classify", path)
    return repository


def everything(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


REFUSALS = (TritiumError, ValueError, ValidationError)


@pytest.mark.parametrize("way", WAYS)
def test_an_app_s_name_never_becomes_a_way_out(place: Path, way: str) -> None:
    before = everything(place.parent)
    for app in HOSTILE:
        with pytest.raises(REFUSALS) as caught:
            WAYS[way](place, app)
        assert "null byte" not in str(caught.value), "the system refused it, and not we"
        if isinstance(caught.value, ValidationError):
            assert "app" in {
                str(error["loc"][0]) for error in caught.value.errors() if error["loc"]
            }
    assert everything(place.parent) == before


@pytest.mark.parametrize("way", ["release_folder", "read_release", "sign", "read_app_release"])
def test_nor_does_a_release_s_number(place: Path, way: str) -> None:
    ways: dict[str, Callable[[Any], object]] = {
        "release_folder": lambda number: release.release_folder(place, "tiny", number),
        "read_release": lambda number: release.read_release(place, "tiny", number),
        "sign": lambda number: signing.sign_release(place, "tiny", number, place / "key"),
        "read_app_release": lambda number: read_app_release(place, "tiny", number),
    }
    for number in NUMBERS:
        with pytest.raises(
            TritiumError, match=r"cannot be a release's number|key .* cannot be read"
        ):
            ways[way](number)


COMMANDS = [
    *(["rollout", verb, "{app}", *more, "--repository", "{where}", "--endpoint", "127.0.0.1:1"]
      for verb, more in (("status", []), ("stage", ["1"]), ("canary", ["1", "--percent", "5"]),
                         ("shadow", ["1", "--percent", "5"]), ("promote", ["1"]), ("rollback", []),
                         ("retire", ["1", "--delete"]), ("gc", []), ("watch", ["--seconds", "1"]))),
    ["sign", "{app}", "1", "--key", "{where}/key", "--repository", "{where}"],
    ["serve", "--app", "{app}", "--repository", "{where}", "--free-ports"],
    *([verb, "--app", "{app}", "--text", "x", "--url", "127.0.0.1:1"]
      for verb in ("classify", "embed", "annotate", "score", "tag")),
    ["status", "--app", "{app}", "--url", "127.0.0.1:1"],
    ["bench", "run", "{app}", "--repository", "{where}"],
    ["bench", "tune", "{app}", "--repository", "{where}"],
    ["bench", "curves", "{app}", "--repository", "{where}"],
]  # fmt: skip


@pytest.fixture(scope="module")
def program() -> typer.Typer:
    return build_app()[0]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:2]))
def test_nor_on_the_command_line(place: Path, program: typer.Typer, words: list[str]) -> None:
    from typer.main import get_command

    before = everything(place.parent)
    for app in HOSTILE:
        if not app or "\0" in app:  # no argument of a process
            continue
        line = [word.replace("{app}", app).replace("{where}", str(place)) for word in words]
        printed = io.StringIO()
        with redirect_stdout(printed), redirect_stderr(printed):
            try:
                code = get_command(program).main(line, standalone_mode=True)
            except SystemExit as end:
                code = end.code
            except (TritiumError, ValueError):  # one line, and 1: tritium_client/cli.py
                code = 1
        assert code in (1, 2), printed.getvalue()
        assert "Traceback" not in printed.getvalue()
    assert everything(place.parent) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [("model", "../outside"), ("model", ".."), ("model", "/etc"), ("files", "../../outside/x"),
     ("files", "/etc/passwd"), ("files", ""), ("files", "a/../../b")],
)  # fmt: skip
def test_a_release_that_names_other_places_is_not_read(place: Path, field: str, value: str) -> None:
    """Retired with --delete, it would have removed them."""
    path = place / "tiny_classify" / "1" / "release.json"
    record = json.loads(path.read_text())
    part = record["components"]["text_encoder"]
    if field == "model":
        part["model"] = value
    else:
        part["files"] = {value: {"sha256": "0" * 64, "bytes": 0}}
    path.write_text(json.dumps(record))
    with pytest.raises(TritiumError, match=r"cannot be a Triton model's name|no path within"):
        read_app_release(place, "tiny", 1)
    with pytest.raises(TritiumError):
        rollout(place, "retire", "tiny", 1)


def test_a_release_that_says_it_is_another_one_is_not_read(place: Path) -> None:
    shutil.copytree(place / "tiny_classify" / "1", place / "tiny_classify" / "2")
    with pytest.raises(TritiumError, match=r"is of tiny release 1; build the release again"):
        read_app_release(place, "tiny", 2)
