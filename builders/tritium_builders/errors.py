"""Every error that building can end with.

    TritiumError
    ├── BundleError          a bundle is missing something, or holds something wrong
    ├── RecipeError          a recipe or its data cannot be used
    ├── TrainingError        a training cannot go on: it diverged, or its checkpoint has no place
    ├── ExportError          a PyTorch module has no ONNX form that behaves like it
    ├── CompileError         a target's compiler refused a graph
    ├── ParityError          the built app does not answer what PyTorch answers
    │   └── CastError        no cast of a component answers what its fp32 graph answers
    ├── AccuracyError        a reduced precision costs more accuracy than it may
    ├── TargetMissingError   this machine lacks what a target is built with
    ├── ExplainError         an answer cannot be explained like this
    ├── SignatureError       a key cannot be used, or a release is not what somebody signed
    ├── PublishError         the repository could not take the release
    └── MissingExtraError    a part of the installation is not there

Each message names the cause and the fix in one line.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass


class TritiumError(Exception):
    """Anything that Tritium refuses or fails to do, said so that it can be mended."""


class BundleError(TritiumError):
    """A bundle cannot be used. Names the file, the field and the fix.

    Args:
        file: The file, relative to the bundle's folder.
        field: The field within it, or None when the whole file is meant.
        problem: What is wrong.
        fix: What to do about it.
    """

    def __init__(self, *, file: str, problem: str, fix: str, field: str | None = None) -> None:
        where = file if field is None else f"{file}: {field}"
        super().__init__(f"{where}: {problem}; {fix}")
        self.file = file
        self.field = field
        self.problem = problem
        self.fix = fix


class RecipeError(TritiumError):
    """A recipe, or the data that it names, cannot be used."""


class TrainingError(TritiumError):
    """A training cannot go on. Says where it was, and from which checkpoint the next one starts."""


class ExportError(TritiumError):
    """A module could not be exported to ONNX."""


class CompileError(TritiumError):
    """A target's compiler refused a graph."""


class AccuracyError(TritiumError):
    """A reduced precision costs more accuracy than it may; nothing was published.

    Args:
        found: What was measured, and the bound.
        fix: What to do about it, a sentence.
    """

    def __init__(self, found: str, fix: str) -> None:
        super().__init__(f"{found}; nothing was published. {fix}")
        self.found = found


class TargetMissingError(TritiumError):
    """This machine lacks what a target is built with; says what, and where it can be built."""


class ExplainError(TritiumError):
    """An answer cannot be explained like this; says what can be done."""


class SignatureError(TritiumError):
    """A key cannot be used, or a release is not what a trusted key signed."""


class PublishError(TritiumError):
    """The repository could not take the release; nothing was published."""


class MissingExtraError(TritiumError):
    """A package that this command needs is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'tritium[{extra}]'")
        self.package = package
        self.extra = extra


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn the failed import of a package into the line that says which extra brings it.

    Args:
        extra: The extra that the code inside needs.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "a package", extra) from error


def require(package: str, extra: str) -> None:
    """Look for a package that is imported only after long work; nothing is imported here.

    Args:
        package: Its import name.
        extra: The extra that brings it.

    Raises:
        MissingExtraError: it is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(package, extra)


@dataclass(frozen=True)
class Mismatch:
    """Where and how far a served value is from PyTorch's."""

    stage: str
    """The component that was compared, for instance `image_decoder`."""
    output: str
    """The tensor, for instance `pixels`."""
    sample: str
    """The golden sample with the largest difference."""
    expected_shape: tuple[int, ...]
    actual_shape: tuple[int, ...]
    largest_difference: float
    """In the tensor's own unit; infinite where the shapes differ."""
    tolerance: float
    detail: str = ""

    def __str__(self) -> str:
        shapes = f"expected shape {list(self.expected_shape)}, got {list(self.actual_shape)}"
        text = (
            f"stage {self.stage}, output {self.output}, sample {self.sample}: {shapes}, "
            f"largest difference {self.largest_difference:.6g}, tolerance {self.tolerance:.6g}"
        )
        return f"{text} ({self.detail})" if self.detail else text


class ParityError(TritiumError):
    """The built app does not answer what PyTorch answers; nothing was published."""

    def __init__(self, mismatch: Mismatch, *, hint: str = "") -> None:
        super().__init__(f"parity: {mismatch}" + (f"; {hint}" if hint else ""))
        self.mismatch = mismatch


class CastError(ParityError):
    """No cast of a component to a reduced precision is close enough to fp32."""
