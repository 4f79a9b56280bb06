"""Raw samples on disk: a text, an encoded picture, and what is known about them.

A bundle keeps three disjoint sets (golden, calibration, validation) and a release takes the
golden and validation sets along. Both use the same form: `<name>.jsonl`, one object a line,
with pictures beside it under `images/`, named by the hash of their bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from tritium_builders.errors import BundleError
from tritium_client.contract import Modality

IMAGES = "images"

Span = tuple[int, int, str]
"""An entity: its first character in the text, the one after its last, and its label."""
Target = tuple[str, ...] | tuple[float, ...] | tuple[Span, ...]
"""The labels that hold; the scores; or the entities."""


def modalities_key(modalities: Iterable[Modality]) -> str:
    """Write a set of modalities as one word: `text,image`, `text` or `image`."""
    return ",".join(modalities)


@dataclass(frozen=True)
class Sample:
    """One text + image pair as a caller would send it."""

    id: str
    text: str
    image: bytes
    """An encoded picture (JPEG, PNG, WebP, GIF, BMP)."""
    label: str | None = None
    """What is right: the annotator's label in the validation set, None where nobody said."""
    target: Target | None = None
    """What is right where that is no single label; None likewise."""
    answer: str | None = None
    """What PyTorch answers with both modalities (golden samples only)."""
    expected: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """PyTorch's answers by `modalities_key`, row by row (golden samples only)."""

    @property
    def is_labelled(self) -> bool:
        """Whether somebody said what is right."""
        return self.label is not None or self.target is not None

    @property
    def content_hash(self) -> str:
        """SHA-256 of what a caller would send; equal for equal inputs."""
        digest = hashlib.sha256(self.text.encode())
        digest.update(b"\0")
        digest.update(self.image)
        return digest.hexdigest()


def raw_request(sample: Sample, modalities: Iterable[Modality]) -> dict[str, npt.NDArray[Any]]:
    """What a component that reads raw inputs is given for one sample: BYTES [1, 1] each."""
    raw = {"text": sample.text.encode(), "image": sample.image}
    return {modality: np.array([[raw[modality]]], dtype=object) for modality in modalities}


def sample_files(name: str, samples: Iterable[Sample]) -> dict[str, bytes]:
    """Render a sample set as files: relative path -> content.

    Args:
        name: The set, for instance `golden`; the list becomes `<name>.jsonl`.
        samples: What to write, in order.
    """
    files: dict[str, bytes] = {}
    lines = []
    for sample in samples:
        image_path = f"{IMAGES}/{hashlib.sha256(sample.image).hexdigest()[:24]}"
        files[image_path] = sample.image
        row: dict[str, Any] = {"id": sample.id, "text": sample.text, "image": image_path}
        if sample.label is not None:
            row["label"] = sample.label
        if sample.target is not None:
            row["target"] = sample.target
        if sample.answer is not None:
            row["answer"] = sample.answer
        if sample.expected:
            row["expected"] = {key: list(values) for key, values in sample.expected.items()}
        lines.append(json.dumps(row, ensure_ascii=False))
    files[f"{name}.jsonl"] = "".join(f"{line}\n" for line in lines).encode()
    return files


def read_samples(folder: Path, name: str) -> tuple[Sample, ...]:
    """Read a sample set that `sample_files` wrote.

    Raises:
        BundleError: naming the file and the line that cannot be read.
    """
    path = folder / f"{name}.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BundleError(
            file=path.name, problem=f"cannot be read ({error.strerror})", fix="write it again"
        ) from error
    return tuple(_read_row(folder, path, number, line) for number, line in enumerate(lines, 1))


def _read_target(values: Any) -> Target | None:
    """JSON has no tuples."""
    if values is None:
        return None
    return tuple(tuple(value) if isinstance(value, list) else value for value in values)


def _read_row(folder: Path, path: Path, number: int, line: str) -> Sample:
    try:
        row = json.loads(line)
        image_path = folder / row["image"]
        if not image_path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"image {row['image']!r} lies outside {folder}")
        return Sample(
            id=row["id"],
            text=row["text"],
            image=image_path.read_bytes(),
            label=row.get("label"),
            target=_read_target(row.get("target")),
            answer=row.get("answer"),
            expected=MappingProxyType(
                {key: tuple(values) for key, values in row.get("expected", {}).items()}
            ),
        )
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise BundleError(
            file=path.name,
            field=f"line {number}",
            problem=f"{type(error).__name__}: {error}",
            fix="write the samples again",
        ) from error
