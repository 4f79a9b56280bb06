"""What a user may say about a TensorRT build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from tritium_builders.errors import CompileError

DEFAULT_BUCKETS = (16, 32, 64, 128)
"""Token counts that texts are padded to; each is an optimisation profile."""

HardwareCompatibility = Literal["none", "ampere_plus", "same_compute_capability"]


@dataclass(frozen=True)
class TensorRTOptions:
    """How plans are built and served. The defaults suit one kind of GPU and one Triton release.

    Example:
        build(bundle, target="tensorrt", precision="fp16",
              tensorrt=TensorRTOptions(buckets=(16, 32, 64), max_batch=64))
    """

    buckets: tuple[int, ...] | None = None
    """Text lengths in tokens, ascending. None: 16, 32, 64, 128 and so on up to the bundle's
    `max_length`."""
    max_batch: int = 32
    """Requests that one execution may answer, at least 1."""
    workspace_mib: int | None = None
    """Scratch memory that a layer may take, in MiB. None: all of the GPU's."""
    timing_cache: Path | None = None
    """Read if it is there, and written after the build: the next build is faster."""
    hardware_compatibility: HardwareCompatibility = "none"
    """`ampere_plus`: the plan runs on any GPU of compute capability 8.0 or higher, somewhat
    slower, and can be built only on one; `same_compute_capability`: on any GPU of the builder's
    compute capability; `none`: on the builder's model of GPU."""
    version_compatible: bool = False
    """The plan runs on later TensorRT releases, too, somewhat slower. Triton loads it with
    `--backend-config=tensorrt,version-compatible=true`, which `tritium serve` sets."""
    cuda_graphs: bool = False
    """Launch each batch size and bucket as one CUDA graph: less work for the CPU, more memory."""
    output_copy_stream: bool = False
    """Copy outputs in a CUDA stream of their own, beside the next execution."""
    instances: int = 1
    """Execution contexts for each GPU."""
    optimisation_level: int | None = None
    """Builder effort, 0 to 5. None: TensorRT's default."""

    def __post_init__(self) -> None:
        """Refuse what can never be right.

        Raises:
            CompileError: naming the option.
        """
        for name, least in (("max_batch", 1), ("instances", 1), ("workspace_mib", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise CompileError(f"{name} must be at least {least}, and is {value}")
        if self.optimisation_level is not None and not 0 <= self.optimisation_level <= 5:
            raise CompileError(f"optimisation_level is 0 to 5, and not {self.optimisation_level}")
        if self.buckets is not None:
            _check_buckets(self.buckets)

    def buckets_for(self, max_length: int) -> tuple[int, ...]:
        """The text lengths that a bundle's plans are built for.

        Args:
            max_length: Tokens that its tokenizer gives at most.

        Raises:
            CompileError: when given buckets do not cover it.
        """
        if self.buckets is None:
            return default_buckets(max_length)
        if self.buckets[-1] < max_length:
            raise CompileError(
                f"buckets {_join(self.buckets)} end below the bundle's max_length of {max_length} "
                f"tokens, and longer texts would have no profile; add {max_length}"
            )
        return self.buckets

    def describe(self) -> dict[str, Any]:
        """The options as JSON values, for release.json. The cache's path is no part of them."""
        values = asdict(self)
        values["timing_cache"] = self.timing_cache is not None
        values["buckets"] = None if self.buckets is None else list(self.buckets)
        return values

    def arguments(self) -> list[str]:
        """The options as arguments of `tritium build`; defaults are left out."""
        words = []
        for field, default in asdict(TensorRTOptions()).items():
            value = getattr(self, field)
            if value == default:
                continue
            flag = f"--{field.replace('_', '-')}"
            if value is True:
                words.append(flag)
            elif isinstance(value, tuple):
                words += [flag, _join(value)]
            else:
                words += [flag, str(value)]
        return words


def default_buckets(max_length: int) -> tuple[int, ...]:
    """Powers of two from 16 up, ended by `max_length`.

    >>> default_buckets(100)
    (16, 32, 64, 100)
    """
    buckets = []
    size = DEFAULT_BUCKETS[0]
    while size < max_length:
        buckets.append(size)
        size *= 2
    return (*buckets, max_length)


def parse_buckets(text: str) -> tuple[int, ...]:
    """Read `16,32,64`.

    Raises:
        CompileError: for anything that is not a list of ascending positive numbers.
    """
    try:
        buckets = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise CompileError(
            f"buckets are token counts such as 16,32,64,128, and not {text!r}"
        ) from error
    _check_buckets(buckets)
    return buckets


def _check_buckets(buckets: Sequence[int]) -> None:
    if not buckets or buckets[0] < 1 or any(one >= next_ for one, next_ in pairwise(buckets)):
        raise CompileError(
            f"buckets must be ascending token counts of at least 1, and are {_join(buckets)}"
        )


def _join(values: Sequence[int]) -> str:
    return ",".join(map(str, values))
