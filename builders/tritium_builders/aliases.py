"""What callers name: entry points, and the release that they stand for.

An entry point follows from the graph of one release (`openmoji_classify_r3`), which it stands for,
and from nothing else. Its config.pbtxt is all of a repository that a rollout changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from tritium_builders.components import CONFIG
from tritium_builders.configs import alias_ensemble, to_pbtxt
from tritium_builders.durable import replace_file
from tritium_builders.errors import PublishError
from tritium_builders.release import Release, app_folder
from tritium_client import contract


def point_aliases(
    repository: Path, release: Release, rollout: contract.Rollout | None = None
) -> None:
    """Write every entry point's config.pbtxt; the main one last, as it says what is live.

    Args:
        repository: A Triton model repository.
        release: What its app's entry points shall stand for.
        rollout: A candidate beside it.

    Raises:
        PublishError: a graph of the release cannot be read.
        OSError: a file cannot be written; what is live is still what it was.
    """
    configs = [
        alias_ensemble(read_graph(repository, release.graph(given)), release.number, rollout)
        for given in release.entry_points
    ]
    for config in reversed(configs):
        path, text = repository / config.name / CONFIG, to_pbtxt(config)
        if not path.exists() or path.read_text("utf-8") != text:  # a full disk takes nothing
            replace_file(path, text)


def read_graph(repository: Path, name: str) -> Any:
    """The `ModelConfig` of a release's own ensemble.

    Args:
        repository: A Triton model repository.
        name: The ensemble's.

    Raises:
        PublishError: it is missing, or no config.
    """
    path = repository / name / CONFIG
    try:
        return text_format.Parse(path.read_text("utf-8"), pb.ModelConfig())
    except OSError as error:
        raise PublishError(
            f"{path} cannot be read ({error.strerror}); build the release again"
        ) from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise PublishError(f"{path} is not a model config: {error}; build it again") from error


def live_rollout(repository: Path, app: str) -> contract.Rollout | None:
    """The candidate beside the live release, as the app's entry point says it; None for none.

    Raises:
        PublishError: the entry point's config cannot be read.
    """
    text = _read_alias(repository, app)
    try:
        config = text_format.Parse(text, pb.ModelConfig())
        return contract.parse_rollout(config.parameters[contract.PARAM_ROLLOUT].string_value)
    except (text_format.ParseError, ValueError) as error:
        path = app_folder(repository, app) / CONFIG
        raise PublishError(f"{path} cannot be read: {error}; promote the release again") from error


def _read_alias(repository: Path, app: str) -> str:
    try:
        return (app_folder(repository, app) / CONFIG).read_text(encoding="utf-8")
    except OSError:
        return ""
