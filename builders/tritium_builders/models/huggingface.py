"""What the text and image encoders share: transformers models as plain, reproducible configs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from tritium_builders.models.sources import unusable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NOT_ARCHITECTURE = ("transformers_version", "_name_or_path", "architectures", "dtype")
"""Keys that say where and with what a config was written; the architecture is the same."""


def config_dict(model: PreTrainedModel) -> dict[str, Any]:
    """Write a model's config as JSON values, without paths and versions."""
    values = model.config.to_dict()
    return {key: value for key, value in sorted(values.items()) if key not in _NOT_ARCHITECTURE}


def model_from_config(values: dict[str, Any]) -> PreTrainedModel:
    """Make a model with untrained weights from what `config_dict` wrote."""
    from transformers import AutoConfig, AutoModel

    kwargs = {key: value for key, value in values.items() if key != "model_type"}
    config = AutoConfig.for_model(values["model_type"], **kwargs)
    auto: Any = AutoModel
    return cast("PreTrainedModel", auto.from_config(config).eval())


def load_pretrained(source: str, name: str) -> PreTrainedModel:
    """Load a model in float32.

    Args:
        source: How the user named it, for messages.
        name: A folder or a hub id.

    Raises:
        RecipeError: when transformers cannot load it.
    """
    from transformers import AutoConfig, AutoModel

    try:
        with quiet():
            config = AutoConfig.from_pretrained(name)  # nosec B615 # the user's choice
            config = getattr(config, "vision_config", config)  # CLIP: the image tower alone
            model: Any = AutoModel.from_pretrained(name, config=config, dtype=torch.float32)  # nosec B615 # the user's choice
    except (OSError, ValueError, KeyError) as error:
        raise unusable(source, error) from error
    return cast("PreTrainedModel", model.eval().requires_grad_(False))


def load_masked_language_model(source: str, name: str) -> PreTrainedModel:
    """Load a text model with the head that names hidden tokens, a new one where there is none.

    Args:
        source: How the user named it, for messages.
        name: A folder or a hub id.

    Raises:
        RecipeError: when transformers cannot load it, or knows no such head for it.
    """
    from transformers import AutoModelForMaskedLM

    try:
        with quiet():
            model: Any = AutoModelForMaskedLM.from_pretrained(name, dtype=torch.float32)  # nosec B615 # the user's choice
    except (OSError, ValueError, KeyError) as error:
        raise unusable(source, error) from error
    return cast("PreTrainedModel", model.eval())


@contextmanager
def quiet() -> Iterator[None]:
    """Hush transformers: its report lists heads that an encoder has no use for."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    verbosity = logging.get_verbosity()
    shows_bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_bars:
            logging.enable_progress_bar()


def find_file(name: str, file: str) -> Path | None:
    """Find a file of a Hugging Face folder or hub repository, or None when it has none.

    Args:
        name: A folder or a hub id.
        file: The file's name.
    """
    from transformers.utils.hub import cached_file

    path = cached_file(
        name,
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return None if path is None else Path(path)
