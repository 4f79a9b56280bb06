"""Names that become paths: nothing that somebody writes leads out of the folder that it names."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator

from tritium_builders.errors import PublishError
from tritium_client.contract import is_app_name

STATE_FOLDER = ".tritium"
"""Inside the repository: lock, staging area and histories. Triton never looks into it."""
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def require_app_name(app: str) -> str:
    """An app's name, before a path is made of it.

    Raises:
        PublishError: it cannot be one.
    """
    if not (isinstance(app, str) and is_app_name(app)):
        raise PublishError(
            f"{app!r} cannot be an app's name: lower-case letters, digits and _, letter first"
        )
    return app


def require_number(number: int) -> int:
    """A release's number, before a path is made of it.

    Raises:
        PublishError: it cannot be one.
    """
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise PublishError(f"{number!r} cannot be a release's number: 1, 2, 3 ...")
    return number


def state_file(repository: Path, app: str, ending: str) -> Path:
    """A file that a repository keeps about an app, for instance `openmoji.history.jsonl`.

    Raises:
        PublishError: `app` cannot be an app's name.
    """
    return repository / STATE_FOLDER / f"{require_app_name(app)}.{ending}"


def _is_app(name: str) -> str:
    if not is_app_name(name):
        raise ValueError(f"{name!r} cannot be an app's name")
    return name


def _stays_inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
        raise ValueError(f"{path!r} is no path within its folder")
    return path


def _is_model(name: str) -> str:
    if MODEL_NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} cannot be a Triton model's name")
    return name


AppName = Annotated[str, AfterValidator(_is_app)]
InnerPath = Annotated[str, AfterValidator(_stays_inside)]
"""A path that stays within the folder that it is relative to."""
ModelName = Annotated[str, AfterValidator(_is_model)]
"""A Triton model's name, which is a folder of the repository as well."""
